#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Ten Gaussians in two dimensions (App. E.1): how fast a student that starts far away arrives, by a path and without.

    python benchmarks/mixture.py --offset 8 --output mixture.json

Networks as small as this make many seeds and variants affordable; the losses are the package's own. All seeds are
trained at once, as slices of the same tensors. Prints, and writes for each seed, the sliced Wasserstein distance of
the student (moving average) to the data along the training, and the updates to thresholds.
"""

import argparse
import copy
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from disback_diffusers.diffusion.losses import distribution_matching_gradient, surrogate_loss


MODES, SPREAD, EXTENT = 10, 0.25, 4.0  # of the data: number of Gaussians, their standard deviation, where centres lie
SIGMA_DATA = 2.0
SIGMAS = (0.1, 10.0)  # noise levels, log-uniform
BATCH, EMA, EVERY = 512, 0.98, 25
THRESHOLDS = (2.0, 1.0, 0.6, 0.4)


class Mixture:
    """The data, with its score known at every noise level."""

    def __init__(self, seed=100):
        self.centres = (torch.rand(MODES, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * EXTENT

    def sample(self, shape, generator):
        """Points (*shape, 2)."""
        which = torch.randint(MODES, shape, generator=generator)
        return self.centres[which] + SPREAD * torch.randn(*shape, 2, generator=generator)

    def score(self, x, sigma):
        """Gradient of the log density of x = x0 + sigma noise, at x (..., 2) for sigma (..., 1)."""
        variance = SPREAD**2 + sigma**2
        away = self.centres - x.unsqueeze(-2)  # (..., modes, 2)
        weights = (-away.square().sum(-1) / (2 * variance)).softmax(-1)
        return (weights.unsqueeze(-1) * away).sum(-2) / variance


class Linear(nn.Module):
    """One layer a seed: (seeds, n, inputs) to (seeds, n, outputs)."""

    def __init__(self, seeds, inputs, outputs):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter((torch.rand(seeds, inputs, outputs) * 2 - 1) * bound)
        self.bias = nn.Parameter((torch.rand(seeds, 1, outputs) * 2 - 1) * bound)

    def forward(self, x):
        return x @ self.weight + self.bias


class ScoreNet(nn.Module):
    """x0 prediction with EDM's preconditioning (Karras et al., 2022), a residual MLP."""

    def __init__(self, seeds=1, width=128, depth=3):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(16))
        self.embed = nn.Sequential(Linear(seeds, 32, width), nn.SiLU(), Linear(seeds, width, width))
        self.enter, self.leave = Linear(seeds, 2, width), Linear(seeds, width, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Linear(seeds, width, width), Linear(seeds, width, width)]) for _ in range(depth)
        )

    def forward(self, x, sigma):
        """x (seeds, n, 2) at noise levels sigma (seeds, n, 1)."""
        angles = sigma.log() / 4 * self.frequencies
        level = self.embed(torch.cat([angles.sin(), angles.cos()], -1))
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        h = self.enter(x / total)
        for first, second in self.blocks:
            h = h + second(F.silu(first(F.layer_norm(h, h.shape[-1:]) + level)))
        return SIGMA_DATA**2 / total**2 * x + sigma * SIGMA_DATA / total * self.leave(h)


class Student(nn.Module):
    """Noise (seeds, n, 2) to points; untrained it is a small cloud, `offset` away from the middle of the data."""

    def __init__(self, seeds, offset, width=128, spread=0.3):
        super().__init__()
        sizes = (2, width, width, width, 2)
        self.layers = nn.ModuleList(Linear(seeds, a, b) for a, b in zip(sizes, sizes[1:]))
        self.spread = spread
        with torch.no_grad():
            self.layers[-1].bias.copy_(torch.tensor([offset, 0.0]))

    def forward(self, z):
        h = z
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.spread * z + self.layers[-1](h)


def denoising(net, x0, generator):
    """EDM's denoising loss on points x0 (seeds, n, 2); and the noised points, their levels and the estimates of x0."""
    low, high = torch.tensor(SIGMAS).log()
    sigma = (low + (high - low) * torch.rand(*x0.shape[:2], 1, generator=generator)).exp()
    x_t = x0 + sigma * torch.randn(x0.shape, generator=generator)
    estimate = net(x_t, sigma)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return (weight * (estimate - x0).square()).mean(), x_t, sigma, estimate


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_teacher(mixture, steps=6000):
    """A `ScoreNet` of one seed, trained on the data."""
    torch.manual_seed(1)
    net, generator = ScoreNet(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        step(optimizer, denoising(net, mixture.sample((1, 1024), generator), generator)[0])
        schedule.step()
    return net.requires_grad_(False)


def for_seeds(net, seeds):
    """A copy of a one-seed network for each seed, that can be trained."""
    copied = copy.deepcopy(net)
    for module in copied.modules():
        if isinstance(module, Linear):
            for name in ("weight", "bias"):
                value = getattr(module, name).detach()
                setattr(module, name, nn.Parameter(value.expand(seeds, -1, -1).clone()))
    return copied


def sliced_wasserstein(a, b, directions=64):
    """Mean distance of the sorted projections of two sets (seeds, n, 2), on fixed random directions; (seeds,)."""
    directions = F.normalize(torch.randn(2, directions, generator=torch.Generator().manual_seed(9)), dim=0)
    return ((a @ directions).sort(-2).values - (b @ directions).sort(-2).values).abs().mean((-1, -2))


# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Variant:
    """How the student is taught; the first are the package's defaults."""

    path: bool = True
    nodes: tuple = (3, 6, 12, 25, 50, 100, 200)
    steps_per_node: int = 25
    fake_start: str = "node"
    weighting: str = "dmd"
    learning_rate: float = 1e-4
    fake_learning_rate: float = 2e-4


VARIANTS = {
    "disback": Variant(),
    "no_backtracking": Variant(path=False, fake_start="teacher"),
    "no_path_but_node_start": Variant(path=False),
    "path_but_teacher_start": Variant(fake_start="teacher"),
    "uniform_nodes": Variant(nodes=(50, 100, 150, 200)),
    "more_early_nodes": Variant(nodes=(1, 2, 3, 4, 6, 8, 12, 16)),
    "short_stays": Variant(steps_per_node=10),
    "long_stays": Variant(steps_per_node=50),
}


def record_path(teacher, student, variant, seeds, generator):
    """Stage 1 (Alg. 1): the networks at the nodes."""
    net, nodes = for_seeds(teacher, seeds), []
    optimizer = torch.optim.Adam(net.parameters(), variant.learning_rate * 2)
    for i in range(1, max(variant.nodes) + 1):
        with torch.no_grad():
            x0 = student(torch.randn(seeds, BATCH, 2, generator=generator))
        step(optimizer, denoising(net, x0, generator)[0])
        if i in variant.nodes:
            nodes.append(copy.deepcopy(net).requires_grad_(False))
    return nodes


def distill(mixture, teacher, variant, offset, seeds, steps, on_step=None):
    """Both stages; returns distances (measurements, seeds) and when they were made, in seconds with stage 1."""
    torch.manual_seed(0)
    student, generator = Student(seeds, offset), torch.Generator().manual_seed(0)
    real = mixture.sample((1, 4000), torch.Generator().manual_seed(7))
    z = torch.randn(seeds, 4000, 2, generator=torch.Generator().manual_seed(8))
    start, measuring = time.perf_counter(), 0.0
    needs_nodes = variant.path or variant.fake_start == "node"
    nodes = record_path(teacher, student, variant, seeds, generator) if needs_nodes else []
    fake = copy.deepcopy(nodes[-1]) if variant.fake_start == "node" else for_seeds(teacher, seeds)
    fake.requires_grad_(True)
    targets = [teacher, *nodes[:-1]] if variant.path else [teacher]
    optimizer = torch.optim.Adam(student.parameters(), variant.learning_rate)
    fake_optimizer = torch.optim.Adam(fake.parameters(), variant.fake_learning_rate)
    average, distances, seconds = copy.deepcopy(student), [], []
    for i in range(steps + 1):
        if i % EVERY == 0:
            began = time.perf_counter()
            seconds.append(round(began - start - measuring, 2))
            with torch.no_grad():
                distances.append(sliced_wasserstein(average(z), real))
            if on_step:
                on_step(i, average, fake)
            measuring += time.perf_counter() - began
        x0 = student(torch.randn(seeds, BATCH, 2, generator=generator))
        loss, x_t, sigma, x0_fake = denoising(fake, x0.detach(), generator)
        step(fake_optimizer, loss)
        node = max(0, len(targets) - 1 - i // variant.steps_per_node)
        with torch.no_grad():
            x0_target = targets[node](x_t, sigma)
        flat = [x.detach().reshape(-1, 2) for x in (x0, x0_fake, x0_target)]
        ones = torch.ones(len(flat[0]))
        gradient = distribution_matching_gradient(*flat, variant.weighting, alpha=ones, sigma=sigma.reshape(-1))
        step(optimizer, surrogate_loss(x0, gradient.reshape(x0.shape)) * x0[0].numel())
        with torch.no_grad():
            for mean, value in zip(average.parameters(), student.parameters()):
                mean.lerp_(value, 1 - EMA)
    return torch.stack(distances), seconds


def updates_to(distances, threshold):
    """Updates of each seed until it is below, None where it never is."""
    below = [(column < threshold).nonzero() for column in distances.T]
    return [int(found[0]) * EVERY if len(found) else None for found in below]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("mixture.json"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--offset", type=float, default=8.0, help="How far away the student starts.")
    parser.add_argument("--weighting", choices=["dmd", "vsd", "uniform"], default="dmd")
    parser.add_argument("--seeds", type=int, default=5, help="How many.")
    parser.add_argument("--steps", type=int, default=1600)
    args = parser.parse_args()
    mixture = Mixture()
    teacher = train_teacher(mixture)
    record = {"settings": {k: v for k, v in vars(args).items() if k not in ("output", "variants")}, "every": EVERY,
              "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
              "versions": {"torch": torch.__version__}, "variants": {}}  # fmt: skip
    for name in args.variants:
        variant = VARIANTS[name]
        variant.weighting = args.weighting
        distances, seconds = distill(mixture, teacher, variant, args.offset, args.seeds, args.steps)
        reached = {threshold: updates_to(distances, threshold) for threshold in THRESHOLDS}
        rows = [[round(value, 4) for value in row] for row in distances.T.tolist()]
        row = {**asdict(variant), "updates_to": reached, "seconds": seconds, "distances": rows}
        record["variants"][name] = row
        end = median(distances[-1].tolist())
        print(f"{name:24} end {end:.3f}, {seconds[-1]:.0f} s, updates to {reached}", flush=True)
        args.output.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
