#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What --dry_run computes for presets, as JSON: parameters, memory by part, disk, forwards. No GPU, no weights.

    python benchmarks/dry_run.py sdxl_24gb sdxl_80gb sdxl_paper --output sdxl_dry_run.json
    python benchmarks/dry_run.py sd15_24gb sd15_paper --output sd15_dry_run.json

All of it is computed on the meta device from the configs of SD 1.5 and SDXL (gpu/models.py), nothing is measured.
"""

import argparse
import json
import tempfile
from pathlib import Path

import diffusers
import torch
from gpu.models import FAMILIES, write_configs

from disback_diffusers.files import user_path
from disback_diffusers.training.build import DTYPES
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.plan import Plan
from disback_diffusers.training.prepare import prepare


PRESETS = Path(__file__).parents[1] / "train_scripts" / "presets"
ABOUT_HERE = ("prompts", "GPU")  # of the prompts and the machine that happen to be given


def rows_of(preset):
    """The lines of one preset's plan, as --dry_run prints them."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("a cat\n", encoding="utf-8")
        words = ["--config", str(PRESETS / f"{preset}.yaml"), "--prompt_dataset", str(prompts), "--dry_run"]
        words += ["--output_dir", folder, "--pretrained_vae_model_name_or_path", ""]
        family = preset.partition("_")[0]
        args = parse_args([*words, "--pretrained_teacher_model", str(write_configs(Path(folder, "teacher"), family))])
        sources, accelerator, _ = prepare(args, [FAMILIES[family]])
        rows = Plan(args, sources, DTYPES[accelerator.mixed_precision], accelerator.num_processes).rows()
    name = f"{sources.family.name}: "
    return [f"{topic}: {text.removeprefix(name)}" for topic, text in rows if topic not in ABOUT_HERE]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem.partition("_")[0] in FAMILIES)
    parser.add_argument("presets", nargs="+", choices=known)
    parser.add_argument("--output", type=user_path, default=Path("sdxl_dry_run.json"))
    args = parser.parse_args()
    record = {
        "how": "computed on the meta device by --dry_run, not measured",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "presets": {preset: rows_of(preset) for preset in args.presets},
    }
    text = json.dumps(record, indent=2) + "\n"
    args.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
