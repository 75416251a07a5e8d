# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which times the networks are trained at."""

import math
from dataclasses import dataclass

import torch

from .noise import NoiseSchedule


SHARE_LEFT_OUT = 0.02  # of the timesteps, at either end


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


def training_times(schedule: NoiseSchedule) -> UniformTimes | LogUniformTimes:
    """t ~ U[0.02 T, 0.98 T] of a schedule with timesteps; all levels of an EDM schedule."""
    first, last = schedule.time_range
    if schedule.num_train_timesteps is None:
        return LogUniformTimes(first, last)
    return UniformTimes(round(SHARE_LEFT_OUT * last), round((1 - SHARE_LEFT_OUT) * last))
