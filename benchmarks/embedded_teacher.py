#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measure a student of the embedded teacher against the teacher and against the untrained student.

    python benchmarks/embedded_teacher.py outputs/demo

generates an image of each of the 1,644 prompts with fixed seeds and prints Fréchet distance (to the real emoji, on the
judge's image features; lower is better), retrieval (share of images whose own prompt is among the judge's ten nearest
of all prompts) and seconds an image; writes report.json and report.png into the student's folder. A student of another
emoji teacher (see examples/train_tiny_sdxl_teacher.py) is measured against its own one. The figures of the embedded
teacher itself are kept in results/embedded_teacher_kept.json: only its images for the sheet are generated again.
"""

import argparse
import os
from pathlib import Path

from diffusers import DDIMScheduler, DiffusionPipeline
from emoji import Emoji
from kept_figures import KEPT, embedded_hash, kept_figures

from disback_diffusers import DisBackPipeline
from disback_diffusers.artifact.layout import read_config
from disback_diffusers.files import user_path
from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.pipelines.schedulers import DEFAULT_TIMESTEP


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "student",
        nargs="?",
        type=os.path.expanduser,
        help="Output folder of a run; without it only the teacher is measured.",
    )
    parser.add_argument(
        "--teacher", default=EMBEDDED, type=os.path.expanduser, help="Where there is no student: a pipeline folder."
    )
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=[4, 10])
    parser.add_argument("--teacher_guidance", type=float, nargs="*", help="By default the student's, and none.")
    parser.add_argument("--width", type=int, default=32, help="Of the images; the judge sees the middle 32x32.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="Measure the embedded teacher for all later reports.")
    parser.add_argument("--output", type=user_path, help="JSON file; by default report.json in the student's folder.")
    return parser.parse_args()


def main():
    args = parse_args()
    config = read_config(args.student) if args.student else {"base_model": args.teacher, "method": {}}
    emoji = Emoji(args.seed, args.width)
    size = {"height": 32, "width": args.width}
    is_embedded = config["base_model"] == EMBEDDED
    kept = kept_figures(args.seed, args.width) if is_embedded and args.student and not args.keep else {}
    teacher = DiffusionPipeline.from_pretrained(resolve(config["base_model"]))
    teacher.scheduler = DDIMScheduler.from_config(
        teacher.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    timestep = config.get("timesteps", [DEFAULT_TIMESTEP])[0]
    if args.student or args.keep:
        pipeline = DisBackPipeline.from_pipe(teacher, conditioning_timestep=timestep)
        label = "untrained student, 1 step"
        emoji.measure(label, pipeline, kept.get(label) if timestep == DEFAULT_TIMESTEP else None, **size)
    for guidance in args.teacher_guidance or sorted({1.0, config["method"].get("guidance_scale", 1.0)}):
        for steps in args.teacher_steps:
            label = f"teacher, {steps} DDIM steps, guidance {guidance:g}"
            call = {"num_inference_steps": steps, "guidance_scale": guidance, **size}
            emoji.measure(label, teacher, kept.get(label), **call)
    if args.student:
        emoji.measure("student, 1 step", DisBackPipeline.from_pretrained(args.student), **size)
    if args.keep:
        emoji.report(KEPT, sheet=False, width=args.width, sha256=embedded_hash())
    else:
        emoji.report(args.output or Path(args.student or ".") / "report.json", width=args.width, student=config)


if __name__ == "__main__":
    main()
