# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--log_mismatch_every`: how far the teacher's score is from the true one on the student's samples (Eq. 9)."""

import torch

from ..diffusion.target_field import LEVELS, image_times, mismatch_degree, squared_mismatch
from ..diffusion.times import times_at
from ..models.batch import generator
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated


PROMPTS = 4
SAMPLES = 256  # of all prompts; those of one prompt are the reference of its stable target field
TIMES = (0.2, 0.4, 0.6, 0.8)  # of latents, as shares of the timesteps


class MismatchProbe:
    """The mismatch degree of the averaged student, of the same z and noise at each call.

    The samples of one prompt are one distribution. The teacher's score on them, noised and without guidance, is
    compared with the score of that distribution. The mean is over the first validation prompts, samples and times;
    every process generates a share of the samples. For images in pixels it is the root of the mean squared distance at
    each time, averaged over the times.

    Args:
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        every (`int`): updates from one measurement to the next.
    """

    def __init__(self, networks: Networks, batches: BatchSource, parallel: Replicated, every: int):
        self.networks, self.batches, self.parallel, self.every = networks, batches, parallel, every
        is_conditional = networks.family.uses_prompts or networks.family.classes
        self.prompts = range(min(PROMPTS, len(batches.shown)) if is_conditional else 1)
        schedule, shape = networks.family.schedule, batches.buckets[0].shape
        self.in_pixels = not networks.family.uses_prompts
        times = image_times(schedule, shape) if self.in_pixels else times_at(schedule, TIMES)
        self.samples = SAMPLES // len(self.prompts) // len(times) * len(times)
        self.times = times[torch.arange(self.samples) % len(times)]
        self.z, self.noise = torch.randn(2, self.samples, *shape, generator=generator("mismatch"))

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """`mismatch` by name."""
        with self.networks.student.averaged():
            measured = torch.cat([self._of(prompt) for prompt in self.prompts])
        if self.in_pixels:
            measured = measured.view(-1, len(LEVELS)).mean(dim=0).clamp(min=0).sqrt()
        return {"mismatch": measured.mean().item()}

    def _of(self, prompt):
        """Of one prompt, (samples,)."""
        device, schedule = self.parallel.device, self.networks.family.schedule

        def measure(rows):
            """x0, x_t and the teacher's score, (rows, 3, ...)."""
            conditions = self.batches.shown_conditions([prompt]).expand(len(rows))
            times = self.times[rows].to(device)
            x0 = self.networks.student(self.z[rows].to(device), conditions)
            x_t = schedule.add_noise(x0, self.noise[rows].to(device), times)
            return torch.stack([x0, x_t, self.networks.teacher.score(x_t, times, conditions)], dim=1)

        x0, x_t, score = self.parallel.map(measure, self.samples, self.batches.batch_size).unbind(1)
        degree = squared_mismatch if self.in_pixels else mismatch_degree
        return degree(score, x_t, self.times.to(device), x0, schedule)
