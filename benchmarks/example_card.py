#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Write model_cards/example.md, the card of the demo's student with the results in benchmarks/results/demo.json.

python benchmarks/example_card.py
"""

import json
import tempfile
from pathlib import Path

from disback_diffusers.card import model_card


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
EXAMPLE = ROOT / "model_cards" / "example.md"
REPOSITORY = "your-name/noto-emoji-one-step"


def example():
    """The text of the card."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    config = results["student"]
    with tempfile.TemporaryDirectory() as folder:
        card = model_card(
            folder, config, REPOSITORY, node_steps=config["method"].get("node_steps", ()), metrics=results["rows"]
        )
        return card.read_text(encoding="utf-8")


if __name__ == "__main__":
    EXAMPLE.write_text(example(), encoding="utf-8")
