#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Fréchet distance and retrieval of a student of the embedded teacher along its training, for several seeds.

    python benchmarks/convergence.py --output convergence.json --seeds 0 1 2 --every 100 -- \\
        --config train_scripts/presets/demo.yaml

Everything behind `--` goes to the training as it would to train_disback_sd.py. Prints a row a measurement and writes
JSON: for each seed the updates, seconds (of both stages, without the measuring), FD and top-10 retrieval.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import diffusers
import torch
from PIL import Image

from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.models.embedded import PROMPTS
from disback_diffusers.models.teachers import StableDiffusionTeacher
from disback_diffusers.training.arguments import parse_args
from disback_diffusers.training.artefact import save_artefact
from disback_diffusers.training.backtracking import DistributionBacktracking
from disback_diffusers.training.distill import stage_1
from disback_diffusers.training.setup import build, prepare
from disback_diffusers.training.trainer import Trainer


BATCH = 137  # 1,644 prompts in 12 parts


class Measurements:
    """In the place of the trainer's validator: measures instead of drawing."""

    def __init__(self, context, encode_all, noise_seed=0):
        self.context, self.judge = context, Judge()
        self.prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
        self.text = self.judge.text_features(self.prompts)
        bucket = context.batches.buckets[0]
        device = context.accelerator.device
        self.conditioning = encode_all(self.prompts).told(bucket.added).to(device)
        shape = bucket.latent_shape
        noise = torch.randn(len(self.prompts), *shape, generator=torch.Generator().manual_seed(noise_seed))
        self.noise = noise.to(device)
        self.rows, self.start, self.paused = [], time.perf_counter(), 0.0

    @torch.no_grad()
    def draw(self, step):
        began = time.perf_counter()
        student, features = self.context.student, []
        with student.averaged():
            for i in range(0, len(self.prompts), BATCH):
                part = slice(i, i + BATCH)
                with self.context.accelerator.autocast():
                    latents = student(self.noise[part], self.conditioning[part])
                features.append(self.judge.image_features(self.context.teacher.decode(latents)))
        features = torch.cat(features)
        row = {
            "step": step,
            "seconds": round(began - self.start - self.paused, 1),
            "fd": round(self.judge.frechet_distance(features), 4),
            "retrieval": round(self.judge.retrieval(features, self.text), 4),
        }
        self.rows.append(row)
        print(row, flush=True)
        self.paused += time.perf_counter() - began
        return Image.new("RGB", (1, 1))


def run(words, seed, every, keep=None):
    """Both stages with one seed; returns the rows, and leaves the student in a folder if one is given."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*words, "--output_dir", folder, "--seed", str(seed)]
        words += ["--validation_steps", str(every), "--checkpointing_steps", "1000000"]
        args = parse_args(words)
        teacher, prompts, accelerator, run_folder = prepare(args, StableDiffusionTeacher)
        run_folder.open(args.settings())
        context, validator = build(args, teacher, prompts, accelerator, run_folder)
        measurements = Measurements(context, teacher.load_encoder("cpu"))
        measurements.draw(0)
        trainer = Trainer(context, run_folder, measurements)
        path = stage_1(context, run_folder, trainer, None)
        trainer.run(DistributionBacktracking(context, None if args.no_backtracking else path))
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            save_artefact(context, keep, validator, path, None)
    return measurements.rows


def main():
    own, words = sys.argv[1:], []
    if "--" in own:
        own, words = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="Folder for the student of the last seed.")
    args = parser.parse_args(own)
    record = {
        "flags": words,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "seeds": {},
    }
    for seed in args.seeds:
        record["seeds"][seed] = run(words, seed, args.every, args.keep)
        if args.output:
            args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    last = [rows[-1] for rows in record["seeds"].values()]
    for name in ("fd", "retrieval"):
        values = [row[name] for row in last]
        print(f"{name}: median {median(values):.4f}, {min(values):.4f} to {max(values):.4f} of {len(values)} seeds")


if __name__ == "__main__":
    main()
