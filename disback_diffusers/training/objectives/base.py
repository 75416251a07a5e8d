# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What an objective gives to stage 2."""

from collections.abc import Iterator

import torch

from ...diffusion.guidance import guided_output
from ...diffusion.losses import denoising_loss
from ...models.batch import Batch
from ...models.denoiser import Denoiser
from ...models.student import Student
from ..objective_settings import ObjectiveArguments


Losses = Iterator[tuple[str, torch.Tensor] | dict[str, torch.Tensor]]


class Objective:
    """The losses of a batch, each for one role.

    The stage calls `backward` on each loss as soon as it is yielded, and lets its gradients into the parameters of
    that role alone. So a loss may be differentiated through another network, and what a network keeps for its backward
    can be freed before the next one runs.

    Args:
        student (`Student`), fake (`Denoiser`): the student, and the score of its samples.
        settings (`ObjectiveArguments`).

    Attributes:
        target (`Denoiser`): the score that the student follows: a node of the path or the teacher. The stage sets it.
        modules (`dict[str, torch.nn.Module]`): networks of its own, by name. They are trained with the fake score, by
            the losses of its role, and saved in checkpoints.
        needs_pairs (`bool`): whether it needs pairs of noise and the teacher's sample, `Batch.pair`.
        takes_real_images (`bool`): whether real images do in their place.
    """

    needs_pairs = False
    takes_real_images = False

    def __init__(self, student: Student, fake: Denoiser, settings: ObjectiveArguments):
        self.student, self.fake, self.settings = student, fake, settings
        self.schedule, self.target = fake.schedule, None
        self.modules: dict[str, torch.nn.Module] = {}

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """What an update costs, in forwards of the network a sample; a backward counts as one forward.

        By default that of the student and of the fake score, both with a backward, and of the target.
        """
        return 5 + (settings.guidance_scale != 1) + (settings.fake_guidance_scale != 1)

    @classmethod
    def draws_pairs(cls, has_real_images: bool) -> bool:
        """Whether pairs have to be generated for it."""
        return cls.needs_pairs and not (cls.takes_real_images and has_real_images)

    @classmethod
    def fake_score_forwards(cls, settings: ObjectiveArguments) -> float:
        """The same for a further update of the fake score."""
        return 2

    def losses(self, batch: Batch) -> Losses:
        """The losses of a batch.

        Args:
            batch (`Batch`): set its `samples` to what the student has generated, detached; `fake_score_losses` needs
                them.

        Yields:
            `(role, loss)`, the role "student" or "fake" and each loss a scalar; last a `dict` with metrics by name,
            detached scalars, for the log and the progress bar. A role without a loss stays as it is.
        """
        raise NotImplementedError

    def fake_score_losses(self, batch: Batch, repeat: int) -> Losses:
        """The losses of a further update of the fake score on the same samples, for "fake" alone.

        Args:
            batch (`Batch`): with its samples.
            repeat (`int`): number of the update, from 1; 0 where it is the only one.

        Raises:
            ValueError: `losses` has not set the samples.
        """
        if batch.samples is None:
            raise ValueError(f"{type(self).__name__}.losses must set batch.samples.")
        noise, t = batch.fresh_noise(repeat)
        x_t = self.schedule.add_noise(batch.samples, noise, t)
        output = self.fake.output(x_t, t, batch.score_conditions)
        loss = denoising_loss(output, batch.samples, noise, t, self.schedule)
        yield "fake", loss
        yield {"loss_fake": loss.detach()}

    def guided_x0(
        self,
        denoiser: Denoiser,
        x_t: torch.Tensor,
        batch: Batch,
        scale: float,
        conditional: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The guided estimate of x0, float32, of the shape of `x_t`.

        Guidance acts up to the timestep `guidance_max_timestep`, if there is one. Where the prompt was emptied it has
        no effect, as both predictions are the same.

        Args:
            x_t (`torch.Tensor` of shape `(n, ...)`): the samples of the batch, noised.
            scale (`float`): 1 is no guidance.
            conditional (`torch.Tensor`, *optional*): the output of the denoiser for the prompts, where it is known.
        """
        given = (x_t, batch.t, batch.score_conditions, batch.empty, self.scale_at(batch.t, scale), conditional)
        return self.schedule.to_x0(guided_output(denoiser.output, *given), x_t, batch.t)

    def scale_at(self, t: torch.Tensor, scale: float) -> float | torch.Tensor:
        """The scale of guidance at times `(n,)`: 1 beyond `guidance_max_timestep`."""
        last = self.settings.guidance_max_timestep
        return scale if scale == 1 or last is None else torch.where(t <= last, scale, 1.0)
