# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measures the student's samples of a few prompts against the teacher's, for alarms."""

import math

import torch

from ..evaluation.health import clipped, grid_power
from ..models.batch import generator
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated
from .switching import variation


PROMPTS, SEEDS = 4, 4


class HealthProbe:
    """Diversity, saturation, contrast and grid texture of the averaged student, of the same z at each call.

    Every process generates a share of the samples. The teacher's are generated once.

    Args:
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        every (`int`): updates from one measurement to the next.
        steps (`int`), guidance_scale (`float`), scheduler (`str` or `None`): how the teacher is sampled.
    """

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        every: int,
        steps: int,
        guidance_scale: float,
        scheduler: str | None = None,
    ):
        self.networks, self.batches, self.parallel, self.every = networks, batches, parallel, every
        self.sampling = steps, guidance_scale, scheduler
        prompts = min(PROMPTS, len(batches.bank))
        self.prompts = [i * len(batches.bank) // prompts for i in range(prompts) for _ in range(SEEDS)]
        self.z = torch.randn(len(self.prompts), *batches.buckets[0].shape, generator=generator("health"))
        self._teacher = None

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """By name, NaN where samples are not finite: "diversity", the student's variation for one prompt as a share of
        the teacher's; "saturation", the student's share of clipped values less the teacher's; "contrast", the ratio of
        standard deviations; and "grid", of samples with a VAE, the ratio of the power at its frequencies.
        """
        if self._teacher is None:
            self._teacher = self._measured(self._of_teacher)
        with self.networks.student.averaged():
            student = self._measured(self.networks.student)
        ratios = {name: student[name] / (self._teacher[name] or math.nan) for name in student}
        found = {"diversity": ratios["variation"], "saturation": student["clipped"] - self._teacher["clipped"]}
        return {**found, **{name: ratios[name] for name in ("contrast", "grid") if name in ratios}}

    def _of_teacher(self, z, conditions):
        given = self.networks.teacher, z, conditions, self.batches.empty(len(z))
        return self.networks.family.sample(*given, *self.sampling)

    def _measured(self, sample):
        def generated(rows):
            conditions = self.batches.conditions([self.prompts[i] for i in rows])
            return sample(self.z[rows].to(self.parallel.device), conditions).float().cpu()

        x0 = self.parallel.map(generated, len(self.prompts), 1)  # one by one: memory was planned for training alone
        family = self.networks.family
        images = torch.cat([family.decode(row[None].to(self.parallel.device)) for row in x0])
        measured = {
            "variation": variation(x0.unflatten(0, (-1, SEEDS))),
            "clipped": clipped(images),
            "contrast": x0.std().item(),
        }
        if family.grid_period:
            measured["grid"] = grid_power(images, family.grid_period)
        return measured if x0.isfinite().all() else dict.fromkeys(measured, math.nan)
