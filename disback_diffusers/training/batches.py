# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What each step trains on, drawn from (seed, stage, step, process) alone, so that a resumed run draws the same."""

import hashlib
from dataclasses import dataclass

import torch

from ..models.conditioning import Conditioning


@dataclass
class Batch:
    """One batch of n samples: `noise` is the student's input, `epsilon` and `t` diffuse its output (Eq. 5, 7, 8)."""

    noise: torch.Tensor  # (n, c, h, w), standard normal
    conditioning: Conditioning  # the student's prompts
    score_conditioning: Conditioning  # the same, a share of them emptied, for the fake score and the target
    empty: Conditioning  # the empty prompt, n times
    epsilon: torch.Tensor  # (n, c, h, w), standard normal
    t: torch.Tensor  # (n,), integer timesteps


def generator(*key):
    """A CPU generator seeded by the key, whatever was drawn before."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class BatchSource:
    """Draws batches on the CPU, the same for the same step on any device, and puts them on `device`.

    Args:
        bank (`PromptBank`).
        buckets (`list[Bucket]`): image sizes; each batch has one of them, by chance.
        timesteps (`tuple`): first and last timestep of the diffusion.
        batch_size (`int`): on each process. rank, world (`int`): this process, of how many.
        proportion_empty (`float`): share of the prompts emptied in `score_conditioning`.
    """

    def __init__(self, bank, buckets, timesteps, batch_size, proportion_empty, seed, rank=0, world=1, device="cpu"):
        self.bank, self.buckets, self.timesteps, self.batch_size = bank, buckets, timesteps, batch_size
        self.proportion_empty, self.seed, self.rank, self.world = proportion_empty, seed, rank, world
        self.device = device
        self._epoch, self._order = None, None

    def draw(self, stage, step, part=0, parts=1, samples=None):
        """Batch number `part` of the `parts` that make up update `step` (from 1) of the stage called `stage`.

        `samples` is its size where that is not the batch size.
        """
        random = generator(self.seed, stage, step, part, self.rank)
        n, bucket = samples or self.batch_size, self._bucket(stage, step, part)
        shape = (n, *bucket.latent_shape)
        first = (((step - 1) * parts + part) * self.world + self.rank) * n
        conditioning = self.bank.batch([self._index(first + i) for i in range(n)]).to(self.device).told(bucket.added)
        empty = self.bank.empty.to(self.device).expand(n).told(bucket.added)
        noise, epsilon = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        emptied = torch.rand(n, generator=random) < self.proportion_empty
        t = torch.randint(self.timesteps[0], self.timesteps[1] + 1, (n,), generator=random)
        return Batch(
            noise.to(self.device),
            conditioning,
            conditioning.where(emptied.to(self.device), empty),
            empty,
            epsilon.to(self.device),
            t.to(self.device),
        )

    def fresh_diffusion(self, stage, step, part, repeat, shape):
        """Another epsilon (of this shape) and t for a further update of the fake score on the same samples."""
        random = generator(self.seed, stage, step, part, self.rank, repeat)
        epsilon = torch.randn(shape, generator=random)
        t = torch.randint(self.timesteps[0], self.timesteps[1] + 1, (shape[0],), generator=random)
        return epsilon.to(self.device), t.to(self.device)

    def later_steps(self, stage, step, part, shape, proportion, timesteps):
        """For an LCM-LoRA, which rows (indices) of a batch of this shape are at a later step; their epsilon and t."""
        random = generator(self.seed, stage, step, part, self.rank, "later")
        rows = (torch.rand(shape[0], generator=random) < proportion).nonzero().flatten()
        epsilon = torch.randn(shape, generator=random)[rows]
        t = torch.tensor(timesteps)[torch.randint(len(timesteps), shape[:1], generator=random)][rows]
        return rows.to(self.device), epsilon.to(self.device), t.to(self.device)

    def _bucket(self, stage, step, part):
        """The same one on every process, so that none has to wait for a larger image of another."""
        random = generator(self.seed, stage, step, part, "bucket")
        return self.buckets[torch.randint(len(self.buckets), (), generator=random)]

    def _index(self, position):
        """Prompt at this position of an endless walk: every prompt once an epoch, in a new order each."""
        epoch, offset = divmod(position, len(self.bank))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self.bank), generator=generator(self.seed, "order", epoch)).tolist()
        return self._order[offset]
