# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The generator that is distilled."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel

from .batch import Batch
from .conditions import Conditions
from .denoiser import Denoiser
from .samplers import OneStep, TeacherSteps


class Student:
    """G: z and conditions in, x0 out. A denoiser, a way to sample with it, and a moving average of its weights.

    Args:
        denoiser (`Denoiser`): a role on the shared base, or a network of its own.
        sampler (`OneStep` or `TeacherSteps`): the latter has no first step and no training samples.
        ema_decay (`float`, *optional*, defaults to 0.99): decay of the moving average.
    """

    def __init__(self, denoiser: Denoiser, sampler: OneStep | TeacherSteps, ema_decay: float = 0.99):
        self.denoiser, self.sampler = denoiser, sampler
        self.ema = EMAModel(self.parameters(), decay=ema_decay)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return self.denoiser.parameters()

    def __call__(self, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of standard normal z `(n, ...)`, in all steps of the sampler."""
        return self.sampler.sample(self.denoiser, z, conditions)

    def first_step(self, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of standard normal z `(n, ...)`, after the first step of the sampler."""
        return self.sampler.first_step(self.denoiser, z, conditions)

    def training_samples(self, batch: Batch) -> torch.Tensor:
        """x0 `(n, ...)`, float32, of a `Batch`, with gradients."""
        return self.sampler.training_samples(self.denoiser, batch)

    def update_ema(self) -> None:
        """Take the weights into the moving average."""
        self.ema.step(self.parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the student has its averaged weights."""
        self.ema.store(self.parameters())
        self.ema.copy_to(self.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.parameters())
