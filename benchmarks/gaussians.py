# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Ten Gaussians (App. E.1) as a family of their own: unconditional points, distilled by the package's own stages."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.models.adapter_files import base_fingerprint
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families.base import Family
from disback_diffusers.models.samplers import OneStep
from disback_diffusers.models.sizes import Bucket
from disback_diffusers.models.student import Student


MODES, SPREAD, EXTENT = 10, 0.25, 4.0  # of the data: number of Gaussians, their standard deviation, range of centres
SIGMA_DATA, SMALLEST_NOISE = 2.0, 0.1
WIDTH = 128  # of all networks; adapters of this rank can change the whole of a layer
DEPTH = 3  # blocks of the score network
BLOCK_LAYERS = tuple(f"blocks.{block}.{layer}" for block in range(DEPTH) for layer in (0, 1))


class Mixture:
    """The data in d dimensions, and the noise levels of training."""

    def __init__(self, seed: int = 100, dimensions: int = 2, largest_noise: float = 10.0):
        generator = torch.Generator().manual_seed(seed)
        self.centres = (torch.rand(MODES, dimensions, generator=generator) * 2 - 1) * EXTENT
        self.dimensions, self.noise = dimensions, (SMALLEST_NOISE, largest_noise)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Points (n, d)."""
        which = torch.randint(MODES, (n,), generator=generator)
        return self.centres[which] + SPREAD * torch.randn(n, self.dimensions, generator=generator)


class ScoreNetwork(nn.Module):
    """The raw network inside EDM's preconditioning (Karras et al., 2022), a residual MLP."""

    def __init__(self, dimensions):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(16))
        self.embed = nn.Sequential(nn.Linear(32, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.enter, self.leave = nn.Linear(dimensions, WIDTH), nn.Linear(WIDTH, dimensions)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]) for _ in range(DEPTH)
        )

    def forward(self, x, sigma):
        """Scaled points (n, d) at noise levels (n,)."""
        angles = sigma[:, None].log() / 4 * self.frequencies
        level = self.embed(torch.cat([angles.sin(), angles.cos()], -1))
        h = self.enter(x)
        for first, second in self.blocks:
            h = h + second(F.silu(first(F.layer_norm(h, h.shape[-1:]) + level)))
        return self.leave(h)


class Cloud(nn.Module):
    """A student of random weights, which starts as a cloud of width `spread`, `offset` away from the data's middle."""

    def __init__(self, mixture: Mixture, offset: float, spread: float = 0.3):
        super().__init__()
        sizes = (mixture.dimensions, WIDTH, WIDTH, WIDTH, mixture.dimensions)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.spread, self.noise = spread, mixture.noise[1]
        with torch.no_grad():
            self.layers[-1].bias.zero_()[0] = offset

    def forward(self, x_t, sigma):
        """x0 (n, d) of pure noise of the largest level (n, d)."""
        h = z = x_t / self.noise
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.spread * z + self.layers[-1](h)


class Gaussians(Family):
    """Samples are points (n, d).

    Args:
        mixture (`Mixture`): the data.
        network (`ScoreNetwork`): the teacher's.
    """

    pipeline_name = "ten Gaussians"
    lora_targets = {"all": ("embed.0", "embed.2", "enter", "leave", *BLOCK_LAYERS)}

    def __init__(self, mixture: Mixture, network: ScoreNetwork):
        self.name, self.commit, self.warnings, self.scheduler_config = self.pipeline_name, None, [], {}
        self.mixture, self.network = mixture, network
        self.schedule = NoiseSchedule.edm(*mixture.noise, SIGMA_DATA, "edm")

    def load_network(self, dtype=torch.float32):
        return copy.deepcopy(self.network)

    def call(self, network, x_t, t, conditions):
        return network(x_t, t)

    def buckets(self, resolution):
        return [Bucket((self.mixture.dimensions,))]

    @torch.no_grad()
    def sample(self, teacher, z, conditions, empty, steps, guidance_scale=1.0, scheduler=None):
        """Euler steps down the noise levels."""
        levels = torch.logspace(*(torch.tensor(self.mixture.noise[::-1]).log10().tolist()), steps)
        x = levels[0] * z
        for level, below in zip(levels, [*levels[1:], 0.0]):
            x0 = teacher.x0(x, torch.full((len(x),), level.item()), conditions)
            x = x0 + below / level * (x - x0)
        return x


class CloudStudent:
    """What a student starts as: a `Cloud`, or the teacher at the largest noise. In the place of `FullStudent`."""

    fingerprint_key = None

    def __init__(self, ema_decay: float, offset: float, spread: float, as_teacher: bool = False):
        self.ema_decay, self.offset, self.spread, self.as_teacher = ema_decay, offset, spread, as_teacher

    def make(self, family: Gaussians) -> Student:
        mixture = family.mixture
        if self.as_teacher:
            denoiser = Denoiser(family, family.load_network().requires_grad_(True), family.schedule)
        else:
            schedule = NoiseSchedule.edm(*mixture.noise, SIGMA_DATA, "sample")
            denoiser = Denoiser(family, Cloud(mixture, self.offset, self.spread), schedule)
        return Student(denoiser, OneStep(mixture.noise[1]), self.ema_decay)

    def fingerprint(self, student: Student) -> str | None:
        return None if self.as_teacher else base_fingerprint(student.denoiser.network)


def train_teacher(mixture: Mixture, steps: int = 6000) -> ScoreNetwork:
    """A network trained on the data by EDM's denoising loss, all noise levels as likely in their logarithm."""
    torch.manual_seed(1)
    network, generator = ScoreNetwork(mixture.dimensions), torch.Generator().manual_seed(1)
    schedule = NoiseSchedule.edm(*mixture.noise, SIGMA_DATA, "edm")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    low, high = torch.tensor(mixture.noise).log()
    for _ in range(steps):
        x0 = mixture.sample(1024, generator)
        sigma = (low + (high - low) * torch.rand(1024, generator=generator)).exp()
        noise = torch.randn(x0.shape, generator=generator)
        output = network(schedule.scale_input(schedule.add_noise(x0, noise, sigma), sigma), sigma)
        loss = (output - schedule.prediction_target(x0, noise, sigma)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return network.requires_grad_(False)


def sliced_wasserstein(a: torch.Tensor, b: torch.Tensor, directions: int = 64) -> float:
    """Mean distance of the sorted projections of two sets (n, d), on fixed random directions."""
    directions = F.normalize(torch.randn(a.shape[-1], directions, generator=torch.Generator().manual_seed(9)), dim=0)
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()
