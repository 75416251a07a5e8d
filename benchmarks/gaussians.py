# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Ten Gaussians (App. E.1), and networks for them: all seeds are slices of the same tensors."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


MODES, SPREAD, EXTENT = 10, 0.25, 4.0  # of the data: number of Gaussians, their standard deviation, where centres lie
SIGMA_DATA, SMALLEST_NOISE = 2.0, 0.1


class Mixture:
    """The data in d dimensions, and the noise levels of training."""

    def __init__(self, seed=100, dimensions=2, largest_noise=10.0):
        generator = torch.Generator().manual_seed(seed)
        self.centres = (torch.rand(MODES, dimensions, generator=generator) * 2 - 1) * EXTENT
        self.dimensions, self.noise = dimensions, (SMALLEST_NOISE, largest_noise)

    def sample(self, shape, generator):
        """Points (*shape, d)."""
        which = torch.randint(MODES, shape, generator=generator)
        return self.centres[which] + SPREAD * torch.randn(*shape, self.dimensions, generator=generator)

    def noise_levels(self, shape, generator):
        """Log-uniform, (*shape, 1)."""
        low, high = torch.tensor(self.noise).log()
        return (low + (high - low) * torch.rand(*shape, 1, generator=generator)).exp()


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

    def __init__(self, dimensions, seeds=1, width=128, depth=3):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(16))
        self.embed = nn.Sequential(Linear(seeds, 32, width), nn.SiLU(), Linear(seeds, width, width))
        self.enter, self.leave = Linear(seeds, dimensions, width), Linear(seeds, width, dimensions)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Linear(seeds, width, width), Linear(seeds, width, width)]) for _ in range(depth)
        )

    def forward(self, x, sigma):
        """x (seeds, n, d) at noise levels sigma (seeds, n, 1)."""
        angles = sigma.log() / 4 * self.frequencies
        level = self.embed(torch.cat([angles.sin(), angles.cos()], -1))
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        h = self.enter(x / total)
        for first, second in self.blocks:
            h = h + second(F.silu(first(F.layer_norm(h, h.shape[-1:]) + level)))
        return SIGMA_DATA**2 / total**2 * x + sigma * SIGMA_DATA / total * self.leave(h)


class Student(nn.Module):
    """Noise (seeds, n, d) to points; untrained a cloud of width `spread`, `offset` away from the data's middle."""

    def __init__(self, dimensions, seeds, offset, width=128, spread=0.3):
        super().__init__()
        self.seeds = seeds
        sizes = (dimensions, width, width, width, dimensions)
        self.layers = nn.ModuleList(Linear(seeds, a, b) for a, b in zip(sizes, sizes[1:]))
        self.spread = spread
        with torch.no_grad():
            self.layers[-1].bias.zero_()[..., 0] = offset

    def forward(self, z):
        h = z
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.spread * z + self.layers[-1](h)


class OneStepTeacher(nn.Module):
    """A student that starts as the teacher, asked once at the largest noise; (seeds, n, d) to the same."""

    def __init__(self, teacher, mixture, seeds):
        super().__init__()
        self.seeds, self.noise, self.net = seeds, mixture.noise[1], for_seeds(teacher, seeds)

    def forward(self, z):
        return self.net(self.noise * z, torch.full((*z.shape[:-1], 1), self.noise))


def denoising(net, x0, mixture, generator):
    """EDM's denoising loss on points x0 (seeds, n, d); and the noised points, their levels and the estimates of x0."""
    sigma = mixture.noise_levels(x0.shape[:2], generator)
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
    net, generator = ScoreNet(mixture.dimensions), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        step(optimizer, denoising(net, mixture.sample((1, 1024), generator), mixture, generator)[0])
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
    """Mean distance of the sorted projections of two sets (seeds, n, d), on fixed random directions; (seeds,)."""
    directions = F.normalize(torch.randn(a.shape[-1], directions, generator=torch.Generator().manual_seed(9)), dim=0)
    return ((a @ directions).sort(-2).values - (b @ directions).sort(-2).values).abs().mean((-1, -2))
