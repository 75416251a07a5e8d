# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which times the networks are trained at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .noise import NoiseSchedule


SHARE_LEFT_OUT = 0.02  # of the timesteps, at either end
RHO = 7  # of EDM's spacing of noise levels
P_MEAN, P_STD = -1.2, 1.2  # of ln(sigma) in EDM's training


@dataclass(frozen=True)
class UniformTimes:
    """Whole timesteps `first` to `last`, all as likely."""

    first: int
    last: int

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n random times, `(n,)`, on the CPU."""
        return torch.randint(self.first, self.last + 1, (n,), generator=generator)

    def spread(self, n: int) -> torch.Tensor:
        """n times, `(n,)`, spread evenly."""
        return (self.first + (torch.arange(n) + 0.5) * (self.last - self.first) / n).long()

    def up_to(self, last: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """The times `(n,)` at shares in [0, 1), `(n,)`, of the way from `first` to the given last ones, `(n,)`."""
        last = last.clamp(self.first, self.last)
        return (self.first + share * (last + 1 - self.first)).long()


@dataclass(frozen=True)
class LogUniformTimes:
    """Noise levels `first` to `last` of an EDM schedule, their logarithm uniform."""

    first: float
    last: float

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n random times, `(n,)`, on the CPU."""
        return self._at(torch.rand(n, generator=generator))

    def spread(self, n: int) -> torch.Tensor:
        """n times, `(n,)`, spread evenly."""
        return self._at((torch.arange(n) + 0.5) / n)

    def _at(self, share):
        low, high = math.log(self.first), math.log(self.last)
        return (low + (high - low) * share).exp()


@dataclass(frozen=True)
class KarrasTimes(LogUniformTimes):
    """Noise levels spaced as the steps of EDM's sampler (Karras et al., 2022, Eq. 5), without 2 % at either end."""

    def _at(self, share):
        share = SHARE_LEFT_OUT + (1 - 2 * SHARE_LEFT_OUT) * share
        low, high = self.first ** (1 / RHO), self.last ** (1 / RHO)
        return (low + (high - low) * share) ** RHO


@dataclass(frozen=True)
class LogNormalTimes(LogUniformTimes):
    """Noise levels as EDM trains its denoisers at (Karras et al., 2022, Table 1), kept within the schedule."""

    def _at(self, share):
        normal = torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6))
        return (P_MEAN + P_STD * normal).exp().clamp(self.first, self.last)


CONTINUOUS = {"karras": KarrasTimes, "log-normal": LogNormalTimes, "log-uniform": LogUniformTimes}


def training_times(schedule: NoiseSchedule, noise_levels: str = "log-uniform") -> UniformTimes | LogUniformTimes:
    """t ~ U[0.02 T, 0.98 T] of a schedule with timesteps; of an EDM schedule a distribution of its noise levels.

    Args:
        noise_levels (`str`, *optional*): "karras", "log-normal" or "log-uniform".
    """
    first, last = schedule.time_range
    if schedule.num_train_timesteps is None:
        return CONTINUOUS[noise_levels](first, last)
    return UniformTimes(round(SHARE_LEFT_OUT * last), round((1 - SHARE_LEFT_OUT) * last))


def times_at(schedule: NoiseSchedule, shares: Sequence[float]) -> torch.Tensor:
    """Times `(n,)` at shares in [0, 1] of a schedule's timesteps; of an EDM schedule as `KarrasTimes` are spaced."""
    first, last = schedule.time_range
    if schedule.num_train_timesteps is None:
        return KarrasTimes(first, last)._at(torch.tensor(shares))
    return torch.tensor([round(first + share * (last - first)) for share in shares])


def times_of_noise(schedule: NoiseSchedule, ratios: torch.Tensor) -> torch.Tensor:
    """The times `(n,)` at which sigma / alpha is nearest to these ratios, `(n,)`."""
    if schedule.num_train_timesteps is None:
        return ratios.clamp(*schedule.time_range)
    steps = torch.arange(schedule.num_train_timesteps)
    alpha, sigma = schedule.alpha_sigma(steps, torch.empty(len(steps)))
    return (sigma / alpha - ratios[:, None]).abs().argmin(dim=1)


def karras_levels(first: float, last: float, steps: int) -> torch.Tensor:
    """The noise levels of EDM's sampler, `(steps + 1,)`, float64, descending to 0 (Karras et al., 2022, Eq. 5)."""
    low, high = first ** (1 / RHO), last ** (1 / RHO)
    levels = (high + (low - high) * torch.linspace(0, 1, steps, dtype=torch.float64)) ** RHO
    return torch.cat([levels, levels.new_zeros(1)])
