#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Ten Gaussians (App. E.1): how fast a random student arrives at all of them, by a path and without.

    python benchmarks/mixture.py --offset 20 --output mixture_20.json

Networks as small as this make many seeds and variants affordable (gaussians.py); the losses and the rule of
`--node_switching adaptive` are the package's own. The distance is the sliced Wasserstein distance of the student
(moving average) to the data. Writes JSON and PNG and prints a table (speed_up.py).
"""

import argparse
import copy
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from gaussians import (
    Mixture,
    OneStepTeacher,
    Student,
    denoising,
    for_seeds,
    sliced_wasserstein,
    step,
    train_teacher,
)
from speed_up import draw, table

from disback_diffusers.diffusion.losses import distribution_matching_gradient, surrogate_loss
from disback_diffusers.files import user_path
from disback_diffusers.training.path import node_steps
from disback_diffusers.training.switching import NodeWalk, targets, variation


BATCH, EMA, EVERY = 512, 0.98, 25
LEARNING_RATE, SCORE_LEARNING_RATE = 1e-4, 2e-4


@dataclass
class Variant:
    """How the student is taught; the defaults are the package's."""

    path: bool = True
    nodes: tuple = (3, 6, 12, 25, 50, 100, 200)
    steps_per_node: int = 100
    adaptive: bool = True
    fake_start: str = "node"
    equal_distances: int = 0  # tried: this many nodes, of equal score distances
    mixed: bool = False  # tried: the target moves evenly from node to node
    teacher_above: float | None = None  # tried: the noise level above which the target is the teacher
    gap_window: int = 0  # tried: a node is left early, when the gap has not fallen for as many updates


BASELINE = "no_backtracking"
VARIANTS = {
    "disback": Variant(),
    BASELINE: Variant(path=False, fake_start="teacher"),
    "no_path_but_node_start": Variant(path=False),
    "path_but_teacher_start": Variant(fake_start="teacher"),
    "two_nodes": Variant(nodes=(100, 200)),
    "four_nodes": Variant(nodes=(25, 50, 100, 200)),
    "uniform_nodes": Variant(nodes=tuple(node_steps(200, 7, "uniform"))),
    "equal_distances": Variant(equal_distances=7),
    "four_equal_distances": Variant(equal_distances=4),
    "half_of_stage_1": Variant(nodes=tuple(node_steps(100, 7, "geometric"))),
    "25_steps_a_node": Variant(steps_per_node=25),
    "50_steps_a_node": Variant(steps_per_node=50),
    "150_steps_a_node": Variant(steps_per_node=150),
    "20_updates_without_a_fall": Variant(steps_per_node=200, gap_window=20),
    "50_updates_without_a_fall": Variant(steps_per_node=200, gap_window=50),
    "mixed_nodes": Variant(mixed=True),
    "teacher_at_high_noise": Variant(teacher_above=3.0),
    "always_a_path": Variant(adaptive=False),
}


class Recording:
    """Stage 1 (Alg. 1): the networks at the nodes."""

    def __init__(self, mixture, teacher, student, variant, generator):
        seeds = student.seeds
        shape = (seeds, BATCH, mixture.dimensions)
        with torch.no_grad():
            self.x0 = student(torch.randn(seeds, 256, mixture.dimensions, generator=generator))
        low, high = map(math.log10, mixture.noise)
        self.sigma = torch.logspace(low, high, 256).view(1, -1, 1).expand(seeds, -1, 1)
        self.x_t = self.x0 + self.sigma * torch.randn(self.x0.shape, generator=generator)
        net = for_seeds(teacher, seeds)
        self.networks, estimates = [copy.deepcopy(net)], [self.estimate(net)]
        optimizer = torch.optim.Adam(net.parameters(), SCORE_LEARNING_RATE)
        stride = self.error(self.x0, estimates[0]) / (variant.equal_distances or 1)
        for i in range(1, max(variant.nodes) + 1):
            with torch.no_grad():
                x0 = student(torch.randn(shape, generator=generator))
            step(optimizer, denoising(net, x0, mixture, generator)[0])
            is_node = i in variant.nodes
            if variant.equal_distances:
                is_node = i == max(variant.nodes) or self.error(self.estimate(net), estimates[-1]) >= stride
            if is_node:
                self.networks.append(copy.deepcopy(net).requires_grad_(False))
                estimates.append(self.estimate(net))

    @torch.no_grad()
    def estimate(self, net):
        return net(self.x_t, self.sigma)

    def error(self, a, b):
        """Root mean square of the difference of two estimates of x0, in standard deviations of the noise."""
        return ((a - b) / self.sigma).square().mean().sqrt().item()


def blend(target, a, b, share):
    """Put the weights between those of networks a and b into `target`."""
    for weight, x, y in zip(target.parameters(), a.parameters(), b.parameters()):
        weight.copy_(torch.lerp(x, y, share))


class GapWatch:
    """Tells when the fake-target gap has stopped falling: its mean over a window not by 2 % for as many updates."""

    def __init__(self, window):
        self.window, self.node, self.gaps, self.lowest, self.since = window, None, [], float("inf"), 0

    def stalled(self, node, gap):
        """Takes in the gap of one more update, against this node."""
        if node != self.node:
            self.node, self.gaps, self.lowest, self.since = node, [], float("inf"), 0
        self.gaps = [*self.gaps, gap][-self.window :]
        mean = sum(self.gaps) / len(self.gaps)
        self.since += 1
        if mean < 0.98 * self.lowest:
            self.lowest, self.since = mean, 0
        return self.since >= self.window


class Distillation:
    """Both stages for all seeds at once; `curves` has a list of measurements for each."""

    def __init__(self, mixture, teacher, variant, student, faster=1.0):
        seeds = student.seeds
        self.mixture, self.variant, self.generator = mixture, variant, torch.Generator().manual_seed(0)
        self.shape = (seeds, BATCH, mixture.dimensions)
        self.real = mixture.sample((1, 4000), torch.Generator().manual_seed(7))
        self.z = torch.randn(seeds, 4000, mixture.dimensions, generator=torch.Generator().manual_seed(8))
        self.student, self.began, self.measuring = student, time.process_time(), 0.0
        self.average = copy.deepcopy(student)
        self.curves = [{"updates": [], "seconds": [], "distance": []} for _ in range(seeds)]
        self.teacher, path = for_seeds(teacher, seeds).requires_grad_(False), None
        if variant.path or variant.fake_start == "node":
            path = Recording(mixture, teacher, student, variant, self.generator)
        self.fake = copy.deepcopy(path.networks[-1] if variant.fake_start == "node" else self.teacher)
        self.fake.requires_grad_(True)
        numbers = targets(len(path.networks) if variant.path else 1, self.pays() or not variant.adaptive)
        self.walk, self.gap_watch = NodeWalk(numbers, variant.steps_per_node), GapWatch(variant.gap_window)
        self.nodes = [self.teacher, *(path.networks[1:] if path else ())]
        self.between, self.left_at = copy.deepcopy(self.teacher), []  # updates after which the target was another
        self.optimizer = torch.optim.Adam(self.student.parameters(), LEARNING_RATE * faster)
        self.fake_optimizer = torch.optim.Adam(self.fake.parameters(), SCORE_LEARNING_RATE * faster)

    @torch.no_grad()
    def pays(self):
        """What `--node_switching adaptive` says, with the data for the teacher's samples."""
        self.variations = {"student": variation(self.student(self.z)), "teacher": variation(self.real)}
        starts_as_teacher = isinstance(self.student, OneStepTeacher)
        return not starts_as_teacher and self.variations["student"] < self.variations["teacher"]

    def run(self, steps, on_step=None):
        for i in range(steps + 1):
            if i % EVERY == 0:
                self.measure(i, on_step)
            gap = self.update()
            if self.variant.gap_window and self.walk.node and self.gap_watch.stalled(self.walk.node, gap):
                self.walk.node_step = self.walk.steps_per_node  # its last
            if self.walk.advance():
                self.left_at.append(i + 1)
        return self.curves

    @torch.no_grad()
    def measure(self, i, on_step):
        start = time.process_time()
        distances = sliced_wasserstein(self.average(self.z), self.real)
        for curve, distance in zip(self.curves, distances.tolist(), strict=True):
            curve["updates"].append(i)
            curve["seconds"].append(round(start - self.began - self.measuring, 2))
            curve["distance"].append(round(distance, 4))
        if on_step:
            on_step(i, self)
        self.measuring += time.process_time() - start

    def update(self):
        """One of the student and the fake score; returns their gap."""
        x0 = self.student(torch.randn(self.shape, generator=self.generator))
        loss, x_t, sigma, x0_fake = denoising(self.fake, x0.detach(), self.mixture, self.generator)
        step(self.fake_optimizer, loss)
        flat = [x.detach().flatten(0, 1) for x in (x0, x0_fake, self.target(x_t, sigma))]
        gradient = distribution_matching_gradient(*flat, "dmd").reshape(x0.shape)
        step(self.optimizer, surrogate_loss(x0, gradient) * x0[0].numel())
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.student.parameters()):
                mean.lerp_(value, 1 - EMA)
        return (flat[1] - flat[2]).abs().mean().item()

    @torch.no_grad()
    def target(self, x_t, sigma):
        """The target's estimate of x0."""
        net = self.nodes[self.walk.node]
        if self.variant.mixed and self.walk.node:
            blend(self.between, net, self.nodes[self.walk.node - 1], self.walk.node_step / self.walk.steps_per_node)
            net = self.between
        x0 = net(x_t, sigma)
        if self.walk.node and self.variant.teacher_above:
            x0 = torch.where(sigma > self.variant.teacher_above, self.teacher(x_t, sigma), x0)
        return x0


def main():
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
    args = parser.parse_args()
    mixture, curves = Mixture(args.data_seed, args.dimensions, args.largest_noise), {}
    teacher = train_teacher(mixture)
    record = {
        "settings": {name: value for name, value in vars(args).items() if name not in ("output", "variants")},
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__},
        "variants": {},
    }
    for name in dict.fromkeys([BASELINE, *args.variants]):
        torch.manual_seed(0)
        if args.student == "teacher":
            student = OneStepTeacher(teacher, mixture, args.seeds)
        else:
            student = Student(mixture.dimensions, args.seeds, args.offset, spread=args.spread)
        distillation = Distillation(mixture, teacher, VARIANTS[name], student, args.faster)
        curves[name] = distillation.run(args.steps)
        found = {
            "targets": distillation.walk.numbers,
            "variations": distillation.variations,
            "left_at": distillation.left_at,
        }
        record["variants"][name] = {**asdict(VARIANTS[name]), **found, "curves": curves[name]}
        args.output.write_text(json.dumps(record) + "\n", encoding="utf-8")
        print(table(curves, BASELINE)[-1], flush=True)
    print(*table(curves, BASELINE), sep="\n")
    shown = {name: curves[name] for name in list(curves)[:2]}
    where = f"{args.offset:g} away" if args.offset else "in the middle"
    where = "as the teacher" if args.student == "teacher" else where
    title = f"Ten Gaussians in {args.dimensions} dimensions, student starts {where}"
    figure = draw(shown, title, "sliced Wasserstein distance")
    figure.savefig(args.output.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
