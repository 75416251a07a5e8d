#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Improve one-step generation of an LCM-LoRA with DisBack. The teacher is the Stable Diffusion model it was made for.

    accelerate launch train_scripts/train_disback_lcm_lora.py \\
        --pretrained_teacher_model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --lcm_lora latent-consistency/lcm-lora-sdv1-5 \\
        --prompt_dataset prompts.txt --output_dir my-one-step-lcm-lora
"""

import sys

from disback_diffusers.errors import UsageError
from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.arguments import DistillationArguments
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script


def parse() -> DistillationArguments:
    args = parse_args(description=__doc__)
    if not args.student.lcm_lora:
        raise UsageError("--lcm_lora is required.")
    return args


if __name__ == "__main__":
    sys.exit(run_script(parse, StableDiffusion))
