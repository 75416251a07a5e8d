#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distill Stable Diffusion XL, or a model fine-tuned from it, into a one-step generator with DisBack.

    accelerate launch train_scripts/train_disback_sdxl.py \\
        --pretrained_teacher_model stabilityai/stable-diffusion-xl-base-1.0 \\
        --prompt_dataset prompts.txt --output_dir my-one-step-model \\
        --config train_scripts/presets/sdxl_24gb.yaml
"""

import sys

from disback_diffusers.models.families import StableDiffusionXL
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script


if __name__ == "__main__":
    sys.exit(run_script(lambda: parse_args(description=__doc__), StableDiffusionXL))
