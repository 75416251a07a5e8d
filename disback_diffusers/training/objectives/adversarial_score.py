# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Adversarial score distillation, ASD (Wei et al., 2024)."""

import torch

from ...diffusion.losses import adversarial_score_loss, surrogate_loss
from ...models.batch import Batch
from ..objective_settings import ObjectiveArguments
from .base import Losses
from .matching import DistributionMatching


class AdversarialScore(DistributionMatching):
    """Eq. 8, with a fake score that is also pushed away from the target without guidance.

    In ASD the fake score is the discriminator of a Wasserstein GAN, and this is the second term of its loss.
    """

    @classmethod
    def fake_score_forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`, and one of the target."""
        return super().fake_score_forwards(settings) + 1

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`."""
        x0 = self.student.training_samples(batch)
        batch.samples = samples = x0.detach()
        x_t = self.schedule.add_noise(samples, batch.noise, batch.t)
        fake_output, target_output, fake_loss, metrics = self._scores(x_t, batch, batch.noise, batch.t)
        yield "fake", fake_loss

        gradient, more = self.matching_gradient(samples, x_t, batch, fake_output.detach(), target_output)
        student_loss = surrogate_loss(x0, gradient)
        yield "student", student_loss
        more.pop("score_ratio")  # compares how well both scores denoise, which this fake score is not to do best
        yield {"loss_student": student_loss.detach(), **metrics, **more}

    def fake_score_losses(self, batch: Batch, repeat: int) -> Losses:
        """As in `Objective`."""
        noise, t = batch.fresh_noise(repeat)
        x_t = self.schedule.add_noise(batch.samples, noise, t)
        *_, loss, metrics = self._scores(x_t, batch, noise, t)
        yield "fake", loss
        yield metrics

    def _scores(self, x_t, batch, noise, t):
        """Outputs of the fake score and of the target, the loss of the former, and metrics."""
        with torch.no_grad():
            target_output = self.target.output(x_t, t, batch.score_conditions)
        output = self.fake.output(x_t, t, batch.score_conditions)
        given = output, target_output, batch.samples, noise, t, self.schedule, self.settings.asd_gamma
        loss, denoising, distance = adversarial_score_loss(*given)
        metrics = {"loss_fake": denoising.detach(), "distance_to_target": distance.detach()}
        return output, target_output, loss, metrics
