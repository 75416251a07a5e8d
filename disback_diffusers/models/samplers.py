# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How a student generates, and from which of its steps it learns."""

from dataclasses import dataclass

import torch

from .batch import Batch, generator
from .conditions import Conditions, to_device
from .denoiser import Denoiser


@dataclass(frozen=True)
class OneStep:
    """From z to x0 in one evaluation at the conditioning timestep t*."""

    timestep: float

    @property
    def timesteps(self) -> list:
        """The times at which the student is trained, from the first."""
        return [self.timestep]

    @property
    def steps(self) -> int:
        """How many evaluations `sample` takes."""
        return 1

    def sample(self, denoiser: Denoiser, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of standard normal z `(n, ...)`."""
        return self.first_step(denoiser, z, conditions)

    def first_step(self, denoiser: Denoiser, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of standard normal z `(n, ...)`, in one step."""
        t = torch.full((len(z),), self.timestep, device=z.device)
        return denoiser.x0(denoiser.schedule.pure_noise(z, t), t, conditions)

    def training_samples(self, denoiser: Denoiser, batch: Batch) -> torch.Tensor:
        """x0 `(n, ...)` of a `Batch`, with gradients to the student."""
        batch.student_t = torch.full_like(batch.t, self.timestep)
        return self.sample(denoiser, batch.z, batch.conditions)


@dataclass(frozen=True)
class FewStep(OneStep):
    """Several steps: at each the last sample is noised again, as the `LCMScheduler` does.

    Each training sample is of one of the steps, all as likely. It starts from the student's own samples of the steps
    before, which have no gradient (backward simulation; Yin et al., 2024b).

    Args:
        timestep (`int`): of the first step.
        later (`tuple[int]`): timesteps of the further ones, descending.
    """

    later: tuple = ()

    @property
    def timesteps(self) -> list:
        """As in `OneStep`."""
        return [self.timestep, *self.later]

    @property
    def steps(self) -> int:
        """As in `OneStep`."""
        return 1 + len(self.later)

    def sample(self, denoiser: Denoiser, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """As in `OneStep`, in all steps. The noise between them is determined by z."""
        x0, rows = self.first_step(denoiser, z, conditions), z.cpu().numpy()
        for number, timestep in enumerate(self.later, 1):
            noise = [torch.randn(z.shape[1:], generator=generator("step", number, row.tobytes())) for row in rows]
            t = torch.full((len(z),), timestep, device=z.device)
            x_t = denoiser.schedule.add_noise(x0, to_device(torch.stack(noise), z.device), t)
            x0 = denoiser.x0(x_t, t, conditions)
        return x0

    def training_samples(self, denoiser: Denoiser, batch: Batch) -> torch.Tensor:
        """As in `OneStep`."""
        random, n, device = batch.random("steps"), len(batch.z), batch.z.device
        trained = torch.randint(1 + len(self.later), (n,), generator=random)
        x_t, t = batch.z.clone(), torch.full_like(batch.t, self.timestep)
        for number, timestep in enumerate(self.later, 1):
            noise, rows = torch.randn(batch.z.shape, generator=random), (trained >= number).nonzero().flatten()
            if not len(rows):
                break
            noise, rows = to_device(noise[rows], device), to_device(rows, device)
            with torch.no_grad():
                x0 = denoiser.x0(x_t[rows], t[rows], batch.conditions[rows])
            t[rows] = timestep
            x_t[rows] = denoiser.schedule.add_noise(x0, noise, t[rows])
        batch.student_t = t
        return denoiser.x0(x_t, t, batch.conditions)


def even_timesteps(first: int, steps: int) -> list[int]:
    """The timesteps of an `LCMScheduler` whose schedule ends at `first`, such as 399, 299, 199, 99.

    Raises:
        ValueError: there are not so many.
    """
    if first + 1 < 2 * steps:
        raise ValueError(f"there are no {steps} timesteps from {first} down to 1, spaced evenly")
    return [(first + 1) * (steps - i) // steps - 1 for i in range(steps)]


@dataclass(frozen=True)
class TeacherSteps:
    """Many steps of a scheduler, as the teacher takes them, without guidance.

    Args:
        steps (`int`). scheduler (`str`, *optional*): a scheduler class of diffusers; by default the teacher's own.
    """

    steps: int
    scheduler: str | None = None

    def sample(self, denoiser: Denoiser, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """As in `OneStep`."""
        return denoiser.family.sample(denoiser, z, conditions, conditions, self.steps, scheduler=self.scheduler)


@dataclass(frozen=True)
class ConsistencySteps(OneStep):
    """One step of a consistency model, or 2, 4 or 8: at each the last sample is noised again.

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
