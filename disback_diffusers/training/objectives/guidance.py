# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Guidance distillation: guided samples without the second forward (Meng et al., 2023, first stage)."""

import torch

from ...diffusion.guidance import guided_output
from ...models.batch import Batch
from ..objective_settings import ObjectiveArguments
from .base import Losses, Objective


class GuidanceDistillation(Objective):
    """Regression of the student, at every timestep, on what the teacher predicts with guidance.

    The student keeps the teacher's sampler and its steps. There is no fake score. The noisy samples are made of real
    images, or of the teacher's samples where there are none.
    """

    needs_pairs = True
    takes_real_images = True

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`: two of the target; one of the student, with a backward."""
        return 4

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`."""
        x0, conditions = self._clean_samples(batch)
        batch.samples = x0
        x_t = self.schedule.add_noise(x0, batch.noise, batch.t)
        given = x_t, batch.t, conditions, batch.empty, self.scale_at(batch.t, self.settings.guidance_scale)
        with torch.no_grad():
            guided = guided_output(self.target.output, *given)
        output = self.student.denoiser.output(x_t, batch.t, conditions)
        loss = (output.float() - guided.float()).square().mean()
        yield "student", loss
        yield {"loss_student": loss.detach()}

    def _clean_samples(self, batch):
        """x0 `(n, ...)` and their conditions."""
        if batch.real:
            real = batch.real(0)
            return real.samples, real.conditions
        pair = batch.pair()
        return pair.x0, pair.conditions
