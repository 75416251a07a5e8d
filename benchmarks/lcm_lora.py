#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measure LCM-LoRAs of the embedded teacher, at 1, 2 and 4 steps, in plain diffusers with the LCMScheduler.

    python benchmarks/lcm_lora.py tiny-lcm-lora my-one-step-lcm-lora --output lcm_lora.json

Every argument is a folder or file for `load_lora_weights`, such as the LCM-LoRA before and after DisBack. Prints and
writes what embedded_teacher.py does.
"""

import argparse
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from emoji import Emoji

from disback_diffusers.artifact.layout import read_config
from disback_diffusers.files import user_path
from disback_diffusers.models.embedded import EMBEDDED, resolve


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lcm_loras", nargs="+", type=user_path)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=user_path, default=Path("lcm_lora.json"))
    args = parser.parse_args()
    emoji = Emoji(args.seed)
    pipeline = StableDiffusionPipeline.from_pretrained(resolve(EMBEDDED))
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    for lcm_lora in args.lcm_loras:
        pipeline.load_lora_weights(lcm_lora)
        for steps in args.steps:
            torch.manual_seed(args.seed)  # of the noise between steps
            emoji.measure(f"{lcm_lora.name}, {steps} steps", pipeline, num_inference_steps=steps, guidance_scale=0)
        pipeline.unload_lora_weights()
    configs = {lcm_lora.name: read_config(lcm_lora) for lcm_lora in args.lcm_loras}
    emoji.report(args.output, students=configs)


if __name__ == "__main__":
    main()
