# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Objectives with a discriminator of real and generated samples (Yin et al., 2024b, DMD2)."""

import torch

from ...diffusion.adversarial import discriminator_loss, divergence_weights, generator_loss, gradient_penalty
from ...diffusion.losses import denoising_loss, per_sample, surrogate_loss
from ...models.batch import Batch
from ...models.denoiser import Denoiser
from ...models.discriminator import Discriminator
from ...models.student import Student
from ..objective_settings import ObjectiveArguments
from .base import Losses
from .matching import DistributionMatching


PENALTY_DISTANCE = 0.1  # how far the gradient penalty shifts real samples
FORTH_AND_BACK = 1  # forwards: to the middle of the network and back, as it is counted


class Adversarial(DistributionMatching):
    """Distribution matching, and a GAN loss. The discriminator is a head on the mid block of the fake score.

    Both are trained together: the discriminator's loss reaches the weights of the fake score too.
    """

    def __init__(self, student: Student, fake: Denoiser, settings: ObjectiveArguments):
        super().__init__(student, fake, settings)
        self.discriminator = Discriminator(fake.family.bottleneck_channels).to(fake.device)
        self.modules = {"discriminator": self.discriminator}

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`. The discriminator's forwards end in the middle of the network."""
        return super().forwards(settings) + FORTH_AND_BACK + cls._discriminator_forwards(settings)

    @classmethod
    def fake_score_forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`."""
        return super().fake_score_forwards(settings) + cls._discriminator_forwards(settings)

    @staticmethod
    def _discriminator_forwards(settings):
        return FORTH_AND_BACK * (1 + (settings.gan_r1_weight > 0))

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`."""
        x0 = self.student.training_samples(batch)
        batch.samples = samples = x0.detach()
        x_t = self.schedule.add_noise(samples, batch.noise, batch.t)
        fake_output, fake_loss, logits, metrics = self._scores_losses(x_t, batch, batch.noise, batch.t)
        yield "fake", fake_loss
        fake_output, logits = fake_output.detach(), logits.detach()

        gradient, more = self.matching_gradient(samples, x_t, batch, fake_output)
        gradient = per_sample("weights", self.weights(logits), gradient) * gradient
        noised = self.schedule.add_noise(x0, batch.noise, batch.t)
        gan_loss = generator_loss(self.discriminator(self.fake.features(noised, batch.t, batch.seen_conditions)))
        student_loss = surrogate_loss(x0, gradient)
        yield "student", student_loss + self.settings.gan_weight * gan_loss
        yield {"loss_student": student_loss.detach(), "loss_gan": gan_loss.detach(), **metrics, **more}

    def weights(self, log_ratio: torch.Tensor) -> torch.Tensor:
        """Of the samples' gradients, `(n,)`; `log_ratio` `(n,)` are the discriminator's logits."""
        return torch.ones_like(log_ratio)

    def fake_score_losses(self, batch: Batch, repeat: int) -> Losses:
        """As in `Objective`, with the discriminator's on other real samples."""
        noise, t = batch.fresh_noise(repeat)
        x_t = self.schedule.add_noise(batch.samples, noise, t)
        _, loss, _, metrics = self._scores_losses(x_t, batch, noise, t, repeat)
        yield "fake", loss
        yield metrics

    def _scores_losses(self, x_t, batch, noise, t, repeat=0):
        """The output, the loss and the logits `(n,)` of the fake score and its head, and metrics."""
        real = batch.real(repeat)
        output, features = self.fake.output_and_features(x_t, t, batch.score_conditions)
        if batch.seen_conditions is not batch.score_conditions:
            features = self.fake.features(x_t, t, batch.seen_conditions)
        denoising = denoising_loss(output, batch.samples, noise, t, self.schedule)
        generated = self.discriminator(features)

        real_t = self.schedule.add_noise(real.samples, real.noise, t)
        logits = self.discriminator(self.fake.features(real_t, t, real.conditions))
        loss = discriminator_loss(logits, generated)
        if self.settings.gan_r1_weight:
            shifted = self.fake.features(real_t + PENALTY_DISTANCE * real.shift, t, real.conditions)
            penalty = gradient_penalty(logits, self.discriminator(shifted), PENALTY_DISTANCE)
            loss = loss + self.settings.gan_r1_weight * penalty
        right = ((logits > 0).float().mean() + (generated < 0).float().mean()) / 2
        metrics = {"loss_fake": denoising.detach(), "loss_discriminator": loss.detach(), "discriminator_right": right}
        return output, denoising + self.settings.discriminator_weight * loss, generated, metrics


class FDivergence(Adversarial):
    """`Adversarial`, with the samples weighted for another divergence (Xu et al., 2025, f-distill)."""

    def weights(self, log_ratio: torch.Tensor) -> torch.Tensor:
        """As in `Adversarial`."""
        return divergence_weights(log_ratio, self.settings.divergence)
