#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measure a student of the embedded teacher against the teacher and against the untrained student.

    python benchmarks/embedded_teacher.py outputs/demo

draws all 1,644 prompts with fixed seeds and prints Fréchet distance (to the real emoji, on the judge's image features;
lower is better), retrieval (share of images whose own prompt is among the judge's ten nearest of all prompts) and
seconds an image; writes report.json and report.png into the student's folder. A student of another emoji teacher (see
train_tiny_sdxl_teacher.py) is measured against its own one.
"""

import argparse
from pathlib import Path

from diffusers import DDIMScheduler, DiffusionPipeline
from emoji import Emoji

from disback_diffusers import DisBackPipeline
from disback_diffusers.hub import read_artefact_config
from disback_diffusers.models.embedded import EMBEDDED, resolve


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", help="Output folder of a run; without it only the teacher is measured.")
    parser.add_argument("--teacher", default=EMBEDDED, help="Where there is no student: a pipeline folder.")
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=[4, 10])
    parser.add_argument("--teacher_guidance", type=float, nargs="*", help="By default the student's, and none.")
    parser.add_argument("--width", type=int, default=32, help="Of the images; the judge sees the middle 32x32.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file; by default report.json in the student's folder.")
    return parser.parse_args()


def main():
    args = parse_args()
    config = read_artefact_config(args.student) if args.student else {"base_model": args.teacher, "method": {}}
    emoji = Emoji(args.seed, args.width)
    size = {"height": 32, "width": args.width}
    teacher = DiffusionPipeline.from_pretrained(resolve(config["base_model"]))
    teacher.scheduler = DDIMScheduler.from_config(
        teacher.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    if args.student:
        student = DisBackPipeline.from_pretrained(args.student)
        untrained = type(student)(**teacher.components, conditioning_timestep=student.conditioning_timestep)
        emoji.measure("untrained student, 1 step", untrained, **size)
    for guidance in args.teacher_guidance or sorted({1.0, config["method"].get("guidance_scale", 1.0)}):
        for steps in args.teacher_steps:
            label = f"teacher, {steps} DDIM steps, guidance {guidance:g}"
            emoji.measure(label, teacher, num_inference_steps=steps, guidance_scale=guidance, **size)
    if args.student:
        emoji.measure("student, 1 step", student, **size)
    emoji.report(args.output or Path(args.student or ".") / "report.json", width=args.width, student=config)


if __name__ == "__main__":
    main()
