#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The paper's figures on ten Gaussians: the student along its training (Fig. 8), scores (Fig. 9), mismatch (Fig. 4).

    python benchmarks/mixture_figures.py --output_dir benchmarks/results

Writes mixture_student.png, mixture_scores.png, mixture_mismatch.png and mixture_mismatch.json. One seed.
"""

import argparse
import json
from pathlib import Path

import torch
from gaussians import Mixture, Student, train_teacher
from matplotlib.figure import Figure
from mixture import BATCH, EVERY, VARIANTS, Distillation

from disback_diffusers import NoiseSchedule, mismatch_degree
from disback_diffusers.files import user_path


SHOWN = ("disback", "no_backtracking")
MOMENTS = (0, 200, 400, 600, 800, 1200, 2400)
GRID, LEVEL = 6.0, 1.0  # of Fig. 9: half its side, and the noise level of both scores
SCHEDULE = NoiseSchedule.edm(0.05, 20.0)


class Watch:
    """Keeps samples of the student, its fake score and its mismatch degree along the training."""

    def __init__(self, teacher):
        self.teacher, self.samples, self.mismatch, self.fake = teacher, {}, [], {}
        self.z = torch.randn(1, 2000, 2, generator=torch.Generator().manual_seed(3))

    def __call__(self, step, distillation):
        with torch.no_grad():
            points = distillation.average(self.z)
            self.mismatch.append(mismatch(self.teacher, points))
            if step in MOMENTS:
                self.samples[step] = points[0]
            if step == MOMENTS[1]:
                self.fake = score(distillation.fake, grid(points))


def score(net, x, level=LEVEL):
    """Of a network at points x (1, n, 2)."""
    with torch.no_grad():
        return (net(x, torch.full((1, x.shape[1], 1), level)) - x) / level**2


def grid(points):
    """Points (1, n, 2) around these (1, m, 2)."""
    line = torch.linspace(-GRID, GRID, 21)
    return torch.cartesian_prod(line, line)[None] + points.mean(1, keepdim=True)


def mismatch(teacher, points):
    """Eq. 9: the teacher's score against that of these points (1, n, 2) themselves, at noise levels 0.3 to 3."""
    generator = torch.Generator().manual_seed(4)
    sigma = torch.logspace(-0.5, 0.5, BATCH)
    x_t = points[0, :BATCH] + sigma[:, None] * torch.randn(BATCH, 2, generator=generator)
    estimate = (teacher(x_t[None], sigma[None, :, None])[0] - x_t) / sigma[:, None] ** 2
    return mismatch_degree(estimate, x_t, sigma, points[0], SCHEDULE).mean().item()


def draw_students(watches, data, offset):
    figure = Figure(figsize=(2.6 * len(MOMENTS), 5.6), layout="constrained")
    for axes_row, (name, watch) in zip(figure.subplots(len(watches), len(MOMENTS)), watches.items()):
        for axes, moment in zip(axes_row, MOMENTS):
            axes.scatter(*data.T, s=1, alpha=0.3, color="C7")
            axes.scatter(*watch.samples[moment].T, s=1, alpha=0.5, color="C0")
            axes.set(xlim=(-8, 8 + offset), ylim=(-7, 7), xticks=[], yticks=[], title=f"{name}, {moment}")
    return figure


def draw_scores(teacher, watch, data):
    figure = Figure(figsize=(14, 5), layout="constrained")
    far = watch.samples[MOMENTS[1]]
    around = grid(far[None])
    shown = (
        ("teacher on the data", score(teacher, grid(data)), data[0], grid(data)),
        ("teacher on the student", score(teacher, around), far, around),
        ("fake score on the student", watch.fake, far, around),
    )
    for axes, (name, arrows, cloud, points) in zip(figure.subplots(1, 3), shown):
        axes.scatter(*cloud.T, s=1, alpha=0.3, color="C1")
        axes.quiver(*points[0].T, *arrows[0].T, color="C0", angles="xy")
        axes.set(title=f"{name}, noise level {LEVEL:g}", aspect="equal")
    return figure


def draw_mismatch(watches, lower):
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
    mixture = Mixture()
    teacher, data = train_teacher(mixture), mixture.sample((1, 2000), torch.Generator().manual_seed(5))
    watches = {}
    for name in SHOWN:
        watches[name] = Watch(teacher)
        torch.manual_seed(0)
        student = Student(mixture.dimensions, 1, args.offset)
        Distillation(mixture, teacher, VARIANTS[name], student).run(MOMENTS[-1], watches[name])
        print(f"{name}: mismatch {watches[name].mismatch[0]:.2f} to {watches[name].mismatch[-1]:.2f}", flush=True)
    lower = mismatch(teacher, data)
    figures = {
        "student": draw_students(watches, data[0], args.offset),
        "scores": draw_scores(teacher, watches[SHOWN[0]], data),
        "mismatch": draw_mismatch(watches, lower),
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
