# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What is measured along the degradation path: on which samples a network denoises well, and how a student started."""

import torch

from ..errors import RunError
from ..models.batch import Batch
from ..models.denoiser import Denoiser
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated
from .path import UNTRAINED
from .switching import variation


SAMPLES = 16
TIMES = 4  # fixed noise levels of each sample, spread evenly
TEACHER_STEPS = 20
SAMPLES_OF_A_PROMPT = 4  # of the same number of samples, where their variation is measured


class PathProbe:
    """Measures networks on fixed samples of the untrained student and of the teacher, sampled without guidance.

    Args:
        networks (`Networks`): the student is untrained still.
        batches (`BatchSource`).
        parallel (`Replicated`): each process measures its share; what is returned is the same on all of them.
    """

    def __init__(self, networks: Networks, batches: BatchSource, parallel: Replicated):
        self.networks, self.batches, self.parallel, self.student = networks, batches, parallel, networks.student
        self.schedule = networks.family.schedule
        self._fixed = None

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser) -> dict[str, float]:
        """Mean squared error of the noise that a network predicts: "student_loss" and "teacher_loss".

        Raises:
            RunError: samples are not finite numbers.
        """
        if self._fixed is None:
            self._fixed = self._fix_samples()
        batch, times, samples = self._fixed
        losses = {}
        for name, x0 in samples.items():
            values = []
            for t in times:
                x_t = self.schedule.add_noise(x0, batch.noise, t)
                predicted = self.schedule.to_epsilon(denoiser.output(x_t, t, batch.conditions), x_t, t)
                values.append((predicted - batch.noise).square().mean())
            losses[f"{name}_loss"] = self.parallel.mean(torch.stack(values).mean()).item()
        return losses

    @torch.no_grad()
    def untrained(self) -> dict[str, float]:
        """How the student starts: `DegradationPath.untrained`.

        Raises:
            RunError: samples are not finite numbers.
        """
        batch = self.batches.make("untrained", 1, size=SAMPLES)
        prompts = torch.arange(SAMPLES // SAMPLES_OF_A_PROMPT).repeat_interleave(SAMPLES_OF_A_PROMPT)
        conditions = batch.conditions[prompts]
        student, teacher = self._samples(batch, conditions).values()
        t = torch.full_like(batch.t, self.student.sampler.timestep)
        x_t = self.schedule.add_noise(teacher, batch.noise, t)
        predicted = [denoiser.x0(x_t, t, conditions) for denoiser in (self.student.denoiser, self.networks.teacher)]
        nothing = (self.schedule.to_x0(torch.zeros_like(x_t), x_t, t) - teacher).square().mean()
        errors = [((x0 - teacher).square().mean() / nothing).item() for x0 in predicted]
        spreads = [variation(samples.unflatten(0, (-1, SAMPLES_OF_A_PROMPT))) for samples in (student, teacher)]
        values = torch.tensor([*errors, *spreads], device=batch.t.device)
        return dict(zip(UNTRAINED, self.parallel.mean(values).tolist(), strict=True))

    def _fix_samples(self):
        share = self.parallel.share(SAMPLES)
        batch = self.batches.make("probe", 1, size=len(share))
        times = self.batches.times.spread(SAMPLES * TIMES).view(SAMPLES, TIMES)[share]
        times = times.T.contiguous().to(batch.t.device)
        return batch, times, self._samples(batch, batch.conditions)

    def _samples(self, batch: Batch, conditions):
        """x0 of the student and of the teacher, of a batch's z."""
        teacher, family = self.networks.teacher, self.networks.family
        steps = min(TEACHER_STEPS, self.schedule.num_train_timesteps or TEACHER_STEPS)
        samples = {
            "student": self.student(batch.z, conditions),
            "teacher": family.sample(teacher, batch.z, conditions, batch.empty, steps),
        }
        for name, x0 in samples.items():
            if not x0.isfinite().all():
                raise RunError(
                    f"samples of the {name} are not finite numbers: with --mixed_precision fp16 the network may "
                    "overflow, try bf16. Else check the weights of the teacher, its text encoder and --student_unet."
                )
        return samples
