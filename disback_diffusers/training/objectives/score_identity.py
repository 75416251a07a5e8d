# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Score identity distillation, SiD (Zhou et al., 2024; guided: SiD-LSG)."""

import torch

from ...diffusion.agreement import score_agreement
from ...diffusion.losses import denoising_loss, surrogate_loss
from ...diffusion.score_identity import score_identity_loss
from ...models.batch import Batch
from ..objective_settings import ObjectiveArguments
from .base import Losses, Objective


class ScoreIdentity(Objective):
    """SiD's loss for the student, differentiated through both scores, and Eq. 5 for the fake score."""

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`, and a backward for each forward of a score that the student's loss needs."""
        scores = 2 + (settings.guidance_scale != 1) + (settings.fake_guidance_scale != 1)
        return super().forwards(settings) + scores

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`. The gradient at x0 comes first, so that one forward of the fake score serves both."""
        settings, x0 = self.settings, self.student.training_samples(batch)
        batch.samples = x0.detach()
        samples = x0.detach().requires_grad_(True)
        x_t = self.schedule.add_noise(samples, batch.noise, batch.t)
        fake_output = self.fake.output(x_t, batch.t, batch.score_conditions)
        x0_fake = self.guided_x0(self.fake, x_t, batch, settings.fake_guidance_scale, fake_output)
        x0_target = self.guided_x0(self.target, x_t, batch, settings.guidance_scale)
        loss = score_identity_loss(samples, x0_fake, x0_target, settings.sid_alpha, settings.dmd_normalizer_floor)
        (gradient,) = torch.autograd.grad(loss, samples, retain_graph=True)

        fake_loss = denoising_loss(fake_output, batch.samples, batch.noise, batch.t, self.schedule)
        yield "fake", fake_loss
        student_loss = surrogate_loss(x0, gradient)
        yield "student", student_loss
        metrics = {"loss_student": student_loss.detach(), "loss_fake": fake_loss.detach()}
        gap = (x0_fake - x0_target).detach().abs().mean()
        yield {**metrics, "gap": gap, **score_agreement(batch.samples, x0_fake, x0_target)}
