#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measure a student of the embedded teacher against the teacher and against the untrained student.

    python benchmarks/embedded_teacher.py outputs/demo

draws all 1,644 prompts with fixed seeds and prints Fréchet distance (to the real emoji, on the judge's image features;
lower is better), retrieval (share of images whose own prompt is among the judge's ten nearest of all prompts) and
seconds an image; writes report.json and report.png into the student's folder.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tqdm.auto import tqdm

import disback_diffusers
from disback_diffusers import DisBackPipeline
from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.evaluation.sheets import contact_sheet
from disback_diffusers.models.embedded import EMBEDDED, PROMPTS, resolve


BATCH = 64
SHOWN = ("grinning face", "cat face", "red apple", "rocket", "crown", "panda", "pizza", "rainbow", "bicycle", "guitar")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", help="Output folder of a run; without it only the teacher is measured.")
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=[4, 10])
    parser.add_argument("--teacher_guidance", type=float, nargs="*", help="By default the student's, and none.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file; by default report.json in the student's folder.")
    return parser.parse_args()


def draw(pipeline, prompts, noise, **kwargs):
    """Images (n, 3, h, w) in [0, 1], and seconds an image."""
    pipeline.set_progress_bar_config(disable=True)
    images, start = [], time.perf_counter()
    for i in tqdm(range(0, len(prompts), BATCH), leave=False):
        part = slice(i, i + BATCH)
        images.append(pipeline(prompts[part], latents=noise[part], output_type="pt", **kwargs).images)
    return torch.cat(images), (time.perf_counter() - start) / len(prompts)


def main():
    args = parse_args()
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(args.seed))
    judge = Judge()
    text = judge.text_features(prompts)
    rows, sheet = [], {}

    def measure(label, pipeline, **kwargs):
        images, seconds = draw(pipeline, prompts, noise, **kwargs)
        features = judge.image_features(images)
        row = {
            "model": label,
            "FD": round(judge.frechet_distance(features), 3),
            "top-10 retrieval": round(judge.retrieval(features, text), 4),
            "seconds an image": round(seconds, 4),
        }
        rows.append(row)
        sheet[f"{label}: FD {row['FD']}, retrieval {row['top-10 retrieval']:.0%}"] = images[shown]
        print(
            f"{label:44} {row['FD']:10.3f} {row['top-10 retrieval']:10.1%} {row['seconds an image']:10.4f}", flush=True
        )

    shown = [prompts.index(prompt) for prompt in SHOWN if prompt in prompts]
    print(f"{'':44} {'FD':>10} {'top-10':>10} {'s/image':>10}")
    real = judge.reference["retrieval"].item()
    print(f"{'real emoji':44} {0:10.3f} {real:10.1%}")
    teacher = StableDiffusionPipeline.from_pretrained(resolve(EMBEDDED))
    teacher.scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing")
    config = {}
    if args.student:
        student = DisBackPipeline.from_pretrained(args.student)
        config = json.loads((Path(args.student) / "disback_config.json").read_text(encoding="utf-8"))
        untrained = DisBackPipeline(**teacher.components, conditioning_timestep=student.conditioning_timestep)
        measure("untrained student, 1 step", untrained)
    trained_guidance = config.get("method", {}).get("guidance_scale", 1.0)
    for guidance in args.teacher_guidance or sorted({1.0, trained_guidance}):
        for steps in args.teacher_steps:
            label = f"teacher, {steps} DDIM steps, guidance {guidance:g}"
            measure(label, teacher, num_inference_steps=steps, guidance_scale=guidance)
    if args.student:
        measure("student, 1 step", student)
    report(args, rows, contact_sheet(sheet, [prompts[i] for i in shown]), config)


def report(args, rows, sheet, config):
    folder = Path(args.student or ".")
    versions = {
        "disback_diffusers": disback_diffusers.__version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
    }
    record = {
        "rows": rows,
        "prompts": 1644,
        "seed": args.seed,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": versions,
        "student": config,
    }
    output = args.output or folder / "report.json"
    output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sheet.save(output.with_suffix(".png"))
    print(f"{output} and {output.with_suffix('.png')} are written.")


if __name__ == "__main__":
    main()
