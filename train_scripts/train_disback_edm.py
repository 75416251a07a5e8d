#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distill a pixel-space teacher (EDM, the consistency models' teachers, DDPM) into a one-step generator with DisBack.

    accelerate launch train_scripts/train_disback_edm.py \\
        --pretrained_teacher_model ffhq-64 --output_dir my-one-step-model

convert_edm.py makes the teacher's folder from a published file.
"""

import sys

from disback_diffusers.models.families import DDIM, DDPM, EDM
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script


if __name__ == "__main__":
    sys.exit(run_script(lambda: parse_args(description=__doc__), EDM, DDPM, DDIM))
