# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How a student generates, and from which of its steps it learns."""

from dataclasses import dataclass

import torch

from .batch import Batch
from .conditions import Conditions, to_device
from .denoiser import Denoiser


@dataclass(frozen=True)
class OneStep:
    """From z to x0 in one evaluation at the conditioning timestep t*."""

    timestep: float

    @property
    def timesteps(self) -> list:
        """The times at which the student is evaluated, from the first."""
        return [self.timestep]

    def sample(self, denoiser: Denoiser, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of standard normal z `(n, ...)`, in one step."""
        t = torch.full((len(z),), self.timestep, device=z.device)
        return denoiser.x0(denoiser.schedule.pure_noise(z, t), t, conditions)

    def training_samples(self, denoiser: Denoiser, batch: Batch) -> torch.Tensor:
        """x0 `(n, ...)` of a `Batch`, with gradients to the student."""
        batch.student_t = torch.full_like(batch.t, self.timestep)
        return self.sample(denoiser, batch.z, batch.conditions)


@dataclass(frozen=True)
class FewStep(OneStep):
    """One step, or several: at each the last sample is noised again, as the `LCMScheduler` does.

    A share of the training samples is of a later step, which starts from the student's own first sample.

    Args:
        timestep (`int`): of the first step.
        later (`tuple[int]`): timesteps of the further ones, descending.
        proportion (`float`): share of the training samples that are of a later step, in [0, 1).
    """

    later: tuple = ()
    proportion: float = 0.0

    @property
    def timesteps(self) -> list:
        """As in `OneStep`."""
        return [self.timestep, *self.later]

    def training_samples(self, denoiser: Denoiser, batch: Batch) -> torch.Tensor:
        """As in `OneStep`."""
        rows, noise, times = self.later_rows(batch)
        x_t, t = batch.z.clone(), torch.full_like(batch.t, self.timestep)
        batch.student_t = t
        if len(rows):
            with torch.no_grad():
                first = self.sample(denoiser, x_t[rows], batch.conditions[rows])
            x_t[rows], t[rows] = denoiser.schedule.add_noise(first, noise, times), times
        return denoiser.x0(x_t, t, batch.conditions)

    def later_rows(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which rows of a batch are of a later step (indices), their noise and their times."""
        random, shape = batch.random("later"), batch.z.shape
        rows = (torch.rand(shape[0], generator=random) < self.proportion).nonzero().flatten()
        noise = torch.randn(shape, generator=random)[rows]
        times = torch.tensor(self.later)[torch.randint(len(self.later), shape[:1], generator=random)][rows]
        return tuple(to_device(value, batch.z.device) for value in (rows, noise, times))
