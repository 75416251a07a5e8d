# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--log_mismatch_every`: how far the teacher's score is from the true one on the student's samples (Eq. 9)."""

import torch

from ..diffusion.target_field import mismatch_degree
from .batches import generator


PROMPTS = 4
SAMPLES = 64  # of each prompt; they are the reference of its stable target field
TIMES = (0.2, 0.4, 0.6, 0.8)  # shares of the schedule


class MismatchProbe:
    """The mismatch degree of the averaged student, with the same noise at each call.

    The samples of one prompt are one distribution; the teacher (adapters off, no guidance) is asked for its score on
    them, noised, and compared with their own one. The mean over prompts, samples and times.

    Args:
        context (`Context`).
        conditioning (`Conditioning`): of some prompts, on the CPU; the first four are taken.
    """

    def __init__(self, context, conditioning):
        self.context, self.conditioning, self.every = context, conditioning[:PROMPTS], context.args.log_mismatch_every
        last = context.teacher.schedule.num_train_timesteps - 1
        self.times = torch.tensor([round(share * last) for share in TIMES]).repeat(SAMPLES // len(TIMES))
        shape = (2, SAMPLES, *context.batches.buckets[0].latent_shape)
        self.noise, self.epsilon = torch.randn(shape, generator=generator("mismatch"))

    @torch.no_grad()
    def __call__(self):
        """`mismatch` by name."""
        with self.context.accelerator.autocast(), self.context.student.averaged():
            degrees = [self._of(self.conditioning[i : i + 1]) for i in range(len(self.conditioning))]
        return {"mismatch": torch.cat(degrees).mean().item()}

    def _of(self, conditioning):
        """Of one prompt, (SAMPLES,)."""
        device, roles, schedule = self.context.accelerator.device, self.context.roles, self.context.teacher.schedule
        times = self.times.to(device)
        samples, scores, noised = [], [], []
        for part in torch.arange(SAMPLES).split(self.context.args.train_batch_size):  # memory was planned for that
            told = conditioning.to(device).expand(len(part))
            samples.append(self.context.student(self.noise[part].to(device), told))
            x_t = schedule.add_noise(samples[-1], self.epsilon[part].to(device), times[part])
            with roles():
                output = roles.unet(x_t.to(roles.unet.dtype), times[part], **told.kwargs()).sample
            scores.append(schedule.to_score(output, x_t, times[part]))
            noised.append(x_t)
        return mismatch_degree(torch.cat(scores), torch.cat(noised), times, torch.cat(samples), schedule)
