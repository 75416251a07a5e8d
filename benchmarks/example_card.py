#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Write model_cards/example.md, the card of the demo's student with the results in benchmarks/results/demo.json.

python benchmarks/example_card.py
"""

import json
import tempfile
from pathlib import Path

from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.layout import read_config
from disback_diffusers.files import CONFIG_NAME


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
EXAMPLE = ROOT / "model_cards" / "example.md"
REPOSITORY = "your-name/noto-emoji-one-step"


def example():
    """The text of the card."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CONFIG_NAME).write_text(json.dumps(results["student"]), encoding="utf-8")
        config = read_config(folder)  # which reads every format: the results are as old as they are
        node_steps = config["method"].get("node_steps", ())
        card = model_card(folder, config, REPOSITORY, node_steps=node_steps, metrics=results["rows"])
        return card.read_text(encoding="utf-8")


if __name__ == "__main__":
    EXAMPLE.write_text(example(), encoding="utf-8")
