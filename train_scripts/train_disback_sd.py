#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distill a Stable Diffusion model (1.x, 2.x, or a fine-tuned one) into a one-step generator with DisBack.

    accelerate launch train_scripts/train_disback_sd.py \\
        --pretrained_teacher_model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --prompt_dataset prompts.txt --output_dir my-one-step-model \\
        --config train_scripts/presets/sd15_24gb.yaml
"""

import sys

from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script


if __name__ == "__main__":
    sys.exit(run_script(lambda: parse_args(description=__doc__), StableDiffusion))
