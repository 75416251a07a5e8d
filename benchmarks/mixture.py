#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Ten Gaussians (App. E.1): how fast a random student arrives at all of them, by a path and without.

    python benchmarks/mixture.py --offset 20 --output mixture_20.json

Both stages are the package's own, on networks small enough for many seeds and variants (gaussians.py). The distance is
the sliced Wasserstein distance of the student (moving average) to the data. Writes JSON and PNG and prints a table
(speed_up.py).
"""

import argparse
import json
import logging
import platform
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from gaussians import WIDTH, CloudStudent, Gaussians, Mixture, sliced_wasserstein, train_teacher
from speed_up import plot, table

from disback_diffusers.data.bank import PromptBank
from disback_diffusers.diffusion.times import training_times
from disback_diffusers.evaluation.curves import add_seconds, read_log
from disback_diffusers.files import user_path
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.roles import Roles
from disback_diffusers.training.arguments import DistillationArguments
from disback_diffusers.training.batches import BatchSource
from disback_diffusers.training.distill import Distillation
from disback_diffusers.training.networks import Networks
from disback_diffusers.training.objectives import DistributionMatching
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.sources import Sources
from disback_diffusers.training.trainer import Trainer


EVERY = 25  # updates between two measurements
SHARED = {
    "student": "full", "student_unet": "random", "lora_rank": WIDTH, "train_batch_size": 512, "ema_decay": 0.98,
    "guidance_scale": 1.0, "logging_steps": EVERY, "checkpointing_steps": 10**9, "validation_steps": 0,
    "steps_per_node": 100,
}  # fmt: skip
RATE = 2e-4  # of target and fake score, which are adapters
BASELINE = "no_backtracking"
VARIANTS = {
    "disback": {},
    BASELINE: {"no_backtracking": True},
    "no_path_but_node_start": {"no_backtracking": True, "fake_score_init": "fit"},
    "path_but_teacher_start": {"fake_score_init": "teacher"},
    "two_nodes": {"degradation_nodes": 2},
    "four_nodes": {"degradation_nodes": 4},
    "uniform_nodes": {"node_spacing": "uniform"},
    "half_of_stage_1": {"degradation_steps": 100},
    "auto_steps_a_node": {"steps_per_node": "auto"},
    "25_steps_a_node": {"steps_per_node": 25},
    "50_steps_a_node": {"steps_per_node": 50},
    "150_steps_a_node": {"steps_per_node": 150},
    "adaptive": {"node_switching": "adaptive"},
}


class DistanceToData:
    """A probe for the trainer: the distance of the averaged student from fresh points of the data."""

    def __init__(self, family, student):
        self.every, self.student = EVERY, student
        self.real = family.mixture.sample(4000, torch.Generator().manual_seed(7))
        self.z = torch.randn(self.real.shape, generator=torch.Generator().manual_seed(8))

    def points(self):
        with torch.no_grad(), self.student.averaged():
            return self.student(self.z, Conditions(rows=len(self.z)))

    def __call__(self):
        return {"distance": sliced_wasserstein(self.points(), self.real)}


def distillation(
    family: Gaussians, start: CloudStudent, variant: dict, steps: int, faster: float, seed: int, folder: Path
) -> Distillation:
    """A run of the package in a new folder, without its sample images."""
    rates = {"learning_rate": 1e-4 * faster, "fake_score_learning_rate": RATE * faster}
    settings = {**SHARED, **variant, **rates, "degradation_learning_rate": RATE, "max_train_steps": steps}
    settings |= {"pretrained_teacher_model": family.name, "seed": seed, "output_dir": str(folder)}
    args, parallel = DistillationArguments(**settings), Replicated(Accelerator(cpu=True))
    torch.manual_seed(seed)
    student = start.make(family)
    roles = Roles(family.load_network())
    for name in ("target", "fake"):
        roles.add(name, WIDTH, WIDTH, family.lora_targets["all"], seed=seed)
    denoisers = (Denoiser(family, roles.network, family.schedule, roles, role) for role in (None, "target", "fake"))
    networks = Networks(family, roles, *denoisers, student)
    bank = PromptBank([""], family.load_encoder("cpu"))
    batches = BatchSource(bank, family.buckets([]), training_times(family.schedule), args.data, seed, parallel)
    run_folder, sources = RunFolder(folder), Sources(family, [""], [], 0, start, None)
    trainer = Trainer(Accelerator(cpu=True), parallel, run_folder, args.run, probes=[DistanceToData(family, student)])
    run_folder.open(args.settings())
    return Distillation(args, sources, parallel, run_folder, networks, batches, None, trainer, DistributionMatching)


def train(run: Distillation) -> dict[str, list]:
    """Both stages; the curve of the distance over updates and seconds, which count stage 1."""
    before = run.trainer.probes[0]()["distance"]
    path = run.stage_1(None)
    walk = run.walk(path)
    run.stage_2(path, walk, None)
    stages = read_log(run.folder.folder)
    add_seconds(stages)
    rows = [row for row in stages["backtracking"] if "distance" in row]
    return {
        "targets": walk.numbers,
        "untrained": path.untrained if path else None,
        "updates": [0, *(row["step"] for row in rows)],
        "seconds": [0.0, *(round(row["seconds"], 2) for row in rows)],
        "distance": [round(before, 4), *(round(row["distance"], 4) for row in rows)],
    }


def curves_of(family, start, variant, args):
    curves = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = distillation(family, start, variant, args.steps, args.faster, seed, Path(folder) / "run")
            curves.append(train(run))
            run.folder.close()
    return curves


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=user_path, default=Path("mixture.json"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--student", choices=("random", "teacher"), default="random", help="What it starts as.")
    parser.add_argument("--offset", type=float, default=20.0, help="How far away a random student starts.")
    parser.add_argument("--spread", type=float, default=0.3, help="How wide it starts; the data of 2-D are 2.3 wide.")
    parser.add_argument("--seeds", type=int, default=6, help="How many.")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--data_seed", type=int, default=100, help="Of the Gaussians' centres.")
    parser.add_argument("--dimensions", type=int, default=2)
    parser.add_argument("--largest_noise", type=float, default=10.0, help="Standard deviation; the smallest is 0.1.")
    parser.add_argument("--faster", type=float, default=1.0, help="A factor on stage 2's learning rates.")
    return parser.parse_args()


def main():
    args, curves = parse_args(), {}
    logging.getLogger("disback_diffusers").setLevel(logging.WARNING)
    mixture = Mixture(args.data_seed, args.dimensions, args.largest_noise)
    family = Gaussians(mixture, train_teacher(mixture))
    start = CloudStudent(SHARED["ema_decay"], args.offset, args.spread, as_teacher=args.student == "teacher")
    record = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("output", "variants")},
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__},
        "variants": {},
    }
    for name in dict.fromkeys([BASELINE, *args.variants]):
        curves[name] = curves_of(family, start, VARIANTS[name], args)
        record["variants"][name] = {"settings": VARIANTS[name], "curves": curves[name]}
        args.output.write_text(json.dumps(record) + "\n", encoding="utf-8")
        print(table(curves, BASELINE)[-1], flush=True)
    print(*table(curves, BASELINE), sep="\n")
    shown = {name: curves[name] for name in list(curves)[:2]}
    where = f"{args.offset:g} away" if args.offset else "in the middle"
    where = "as the teacher" if args.student == "teacher" else where
    title = f"Ten Gaussians in {args.dimensions} dimensions, student starts {where}"
    figure = plot(shown, title, "sliced Wasserstein distance")
    figure.savefig(args.output.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
