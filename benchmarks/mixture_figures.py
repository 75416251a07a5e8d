#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The paper's figures on ten Gaussians: the student along its training (Fig. 8), scores (Fig. 9), mismatch (Fig. 4).

    python benchmarks/mixture_figures.py --output_dir benchmarks/results

Writes mixture_student.png, mixture_scores.png, mixture_mismatch.png and mixture_mismatch.json. One seed.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import torch
from gaussians import CloudStudent, Gaussians, Mixture, train_teacher
from matplotlib.figure import Figure
from mixture import EVERY, SHARED, VARIANTS, DistanceToData, distillation, train

from disback_diffusers import NoiseSchedule, mismatch_degree
from disback_diffusers.files import user_path


SHOWN = ("disback", "no_backtracking")
MOMENTS = (0, 200, 400, 600, 800, 1200, 2400)
GRID, LEVEL = 6.0, 1.0  # of Fig. 9: half its side, and the noise level of both scores
POINTS = 512  # for the mismatch degree
SCHEDULE = NoiseSchedule.edm(0.05, 20.0)


class Watch(DistanceToData):
    """A probe that keeps samples of the student, its fake score and its mismatch degree along the training."""

    def __init__(self, family, networks):
        super().__init__(family, networks.student)
        self.networks, self.step, self.samples, self.mismatch = networks, 0, {}, []

    def __call__(self):
        """Called every 25 updates, and once before the first."""
        points = self.points()[:2000]
        self.mismatch.append(mismatch(self.networks.teacher, points))
        if self.step in MOMENTS:
            self.samples[self.step] = points
        if self.step == MOMENTS[1]:
            self.fake_score = score(self.networks.fake, grid(points))
        self.step += EVERY
        return super().__call__()


@torch.no_grad()
def score(denoiser, x, level=LEVEL):
    """Of a network at points x (n, 2)."""
    return denoiser.score(x, torch.full((len(x),), level), None)


def grid(points):
    """Points (n, 2) around these (m, 2)."""
    line = torch.linspace(-GRID, GRID, 21)
    return torch.cartesian_prod(line, line) + points.mean(0)


@torch.no_grad()
def mismatch(teacher, points):
    """Eq. 9: the teacher's score against that of these points (n, 2) themselves, at noise levels 0.3 to 3."""
    generator = torch.Generator().manual_seed(4)
    sigma = torch.logspace(-0.5, 0.5, POINTS)
    x_t = points[:POINTS] + sigma[:, None] * torch.randn(POINTS, 2, generator=generator)
    return mismatch_degree(teacher.score(x_t, sigma, None), x_t, sigma, points, SCHEDULE).mean().item()


def plot_students(watches, data, offset):
    figure = Figure(figsize=(2.6 * len(MOMENTS), 5.6), layout="constrained")
    for axes_row, (name, watch) in zip(figure.subplots(len(watches), len(MOMENTS)), watches.items()):
        for axes, moment in zip(axes_row, MOMENTS):
            axes.scatter(*data.T, s=1, alpha=0.3, color="C7")
            axes.scatter(*watch.samples[moment].T, s=1, alpha=0.5, color="C0")
            axes.set(xlim=(-8, 8 + offset), ylim=(-7, 7), xticks=[], yticks=[], title=f"{name}, {moment}")
    return figure


def plot_scores(teacher, watch, data):
    figure = Figure(figsize=(14, 5), layout="constrained")
    far = watch.samples[MOMENTS[1]]
    around = grid(far)
    shown = (
        ("teacher on the data", score(teacher, grid(data)), data, grid(data)),
        ("teacher on the student", score(teacher, around), far, around),
        ("fake score on the student", watch.fake_score, far, around),
    )
    for axes, (name, arrows, cloud, points) in zip(figure.subplots(1, 3), shown):
        axes.scatter(*cloud.T, s=1, alpha=0.3, color="C1")
        axes.quiver(*points.T, *arrows.T, color="C0", angles="xy")
        axes.set(title=f"{name}, noise level {LEVEL:g}", aspect="equal")
    return figure


def plot_mismatch(watches, lower):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, watch in watches.items():
        axes.plot([i * EVERY for i in range(len(watch.mismatch))], watch.mismatch, label=name)
    axes.axhline(lower, color="grey", linestyle=":", label="on the training data")
    axes.set(xlabel="updates", ylabel="mismatch degree (Eq. 9)", yscale="log")
    axes.legend()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=user_path, default=Path("."))
    parser.add_argument("--offset", type=float, default=20.0)
    args = parser.parse_args()
    logging.getLogger("disback_diffusers").setLevel(logging.WARNING)
    mixture, watches = Mixture(), {}
    family, data = Gaussians(mixture, train_teacher(mixture)), mixture.sample(2000, torch.Generator().manual_seed(5))
    start = CloudStudent(SHARED["ema_decay"], args.offset, spread=0.3)
    for name in SHOWN:
        with tempfile.TemporaryDirectory() as folder:
            run = distillation(family, start, VARIANTS[name], MOMENTS[-1], 1.0, 0, Path(folder) / "run")
            watches[name] = Watch(family, run.networks)
            run.trainer.probes = [watches[name]]
            train(run)
            run.folder.close()
        print(f"{name}: mismatch {watches[name].mismatch[0]:.2f} to {watches[name].mismatch[-1]:.2f}", flush=True)
    teacher = run.networks.teacher
    lower = mismatch(teacher, data)
    figures = {
        "student": plot_students(watches, data, args.offset),
        "scores": plot_scores(teacher, watches[SHOWN[0]], data),
        "mismatch": plot_mismatch(watches, lower),
    }
    for name, figure in figures.items():
        figure.savefig(args.output_dir / f"mixture_{name}.png", dpi=110)
    record = {
        "offset": args.offset,
        "seed": 0,
        "versions": {"torch": torch.__version__},
        "every": EVERY,
        "on the training data": lower,
        **{name: watch.mismatch for name, watch in watches.items()},
    }
    (args.output_dir / "mixture_mismatch.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
