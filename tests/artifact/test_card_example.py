# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
from benchmarks.example_card import EXAMPLE, example


def test_the_example_is_what_the_template_makes_of_the_demo():
    assert EXAMPLE.read_text(encoding="utf-8") == example(), "run: python benchmarks/example_card.py"
