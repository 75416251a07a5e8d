# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distribution matching: DisBack's own objective."""

import torch

from ...diffusion.agreement import score_agreement
from ...diffusion.guidance import classifier_free_guidance
from ...diffusion.losses import denoising_loss, distribution_matching_gradient, surrogate_loss
from ...models.batch import Batch
from ..objective_settings import ObjectiveArguments
from .base import Losses, Objective


class DistributionMatching(Objective):
    """Eq. 8 for the student and Eq. 5 for the fake score, with one forward of the fake score for both."""

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`; guidance at a timestep of its own takes one more."""
        more = settings.guidance_scale != 1 and settings.guidance_rule == "decoupled"
        return super().forwards(settings) + more

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`."""
        x0 = self.student.training_samples(batch)
        batch.samples = samples = x0.detach()
        x_t = self.schedule.add_noise(samples, batch.noise, batch.t)
        fake_output = self.fake.output(x_t, batch.t, batch.score_conditions)
        fake_loss = denoising_loss(fake_output, samples, batch.noise, batch.t, self.schedule)
        yield "fake", fake_loss
        fake_output, fake_loss = fake_output.detach(), fake_loss.detach()  # its graph is freed before the target runs

        gradient, metrics = self.matching_gradient(samples, x_t, batch, fake_output)
        student_loss = surrogate_loss(x0, gradient)
        yield "student", student_loss
        yield {"loss_student": student_loss.detach(), "loss_fake": fake_loss, **metrics}

    @torch.no_grad()
    def matching_gradient(
        self,
        samples: torch.Tensor,
        x_t: torch.Tensor,
        batch: Batch,
        fake_output: torch.Tensor,
        target_output: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The student's gradient at its samples, and metrics.

        Args:
            samples, x_t (`torch.Tensor` of shape `(n, ...)`): the student's samples, without and with noise.
            fake_output (`torch.Tensor` of shape `(n, ...)`): of the fake score, for the prompts.
            target_output (`torch.Tensor` of shape `(n, ...)`, *optional*): likewise, where it is known.
        """
        decoupled = self.settings.guidance_rule == "decoupled"
        scale = 1.0 if decoupled else self.settings.guidance_scale
        x0_fake = self.guided_x0(self.fake, x_t, batch, self.settings.fake_guidance_scale, fake_output)
        x0_target = self.guided_x0(self.target, x_t, batch, scale, target_output)
        gradient = self._weighted(samples, x0_fake, x0_target, batch.t)
        if decoupled and self.settings.guidance_scale != 1:
            gradient = gradient + self._guidance_gradient(samples, batch)
        return gradient, {"gap": (x0_fake - x0_target).abs().mean(), **score_agreement(samples, x0_fake, x0_target)}

    def _guidance_gradient(self, samples, batch):
        """Guidance as a gradient of its own, at noise at most the student's (Liu et al., 2025, Decoupled DMD)."""
        noise, t = batch.guidance_noise()
        x_t = self.schedule.add_noise(samples, noise, t)
        both = self.target.output(torch.cat([x_t, x_t]), torch.cat([t, t]), batch.empty.cat(batch.score_conditions))
        empty, given = (self.schedule.to_x0(output, x_t, t) for output in both.chunk(2))
        guided = classifier_free_guidance(empty, given, self.settings.guidance_scale)
        return self._weighted(samples, given, guided, t)

    def _weighted(self, samples, x0_fake, x0_target, t):
        alpha, sigma = self.schedule.alpha_sigma(t, samples)
        weighting, floor = self.settings.gradient_weighting, self.settings.dmd_normalizer_floor
        return distribution_matching_gradient(samples, x0_fake, x0_target, weighting, alpha, sigma, floor)
