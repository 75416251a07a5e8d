# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A micro-batch, with all of its random numbers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..diffusion.times import LogUniformTimes, UniformTimes
from .conditions import Conditions, to_device


def generator(*key) -> torch.Generator:
    """A generator on the CPU, seeded by the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass
class RealBatch:
    """Real samples, as many as the student's in a micro-batch.

    Attributes:
        samples (`torch.Tensor` of shape `(n, ...)`).
        conditions (`Conditions`): of their captions, a share of them emptied; without captions the empty prompt.
        noise (`torch.Tensor` of shape `(n, ...)`): standard normal.
        shift (`torch.Tensor` of shape `(n, ...)`): standard normal too, for a gradient penalty.
    """

    samples: torch.Tensor
    conditions: Conditions
    noise: torch.Tensor
    shift: torch.Tensor


@dataclass
class PairBatch:
    """Pairs of noise and the teacher's sample of it, as many as the samples of a micro-batch.

    Attributes:
        z (`torch.Tensor` of shape `(n, ...)`): standard normal.
        conditions (`Conditions`): of the teacher's prompts.
        x0 (`torch.Tensor` of shape `(n, ...)`): the teacher's samples.
    """

    z: torch.Tensor
    conditions: Conditions
    x0: torch.Tensor


@dataclass
class Batch:
    """One micro-batch of n samples.

    Attributes:
        z (`torch.Tensor` of shape `(n, ...)`): standard normal, the student's input.
        conditions (`Conditions`): the student's.
        score_conditions (`Conditions`): the same, a share of them emptied, for the fake score and the target.
        empty (`Conditions`): the empty prompt, n times.
        noise (`torch.Tensor` of shape `(n, ...)`), t (`torch.Tensor` of shape `(n,)`): what noises the student's
            samples (Eq. 5, 7, 8).
        times: where further t are sampled from.
        key (`tuple`): of all its random numbers.
        samples (`torch.Tensor` of shape `(n, ...)`): of the student, detached, once they are generated.
        student_t (`torch.Tensor` of shape `(n,)`): where the student was evaluated for them, likewise.
        real (*optional*): real samples, other ones for each number of an update of the fake score, from 0.
        pair (*optional*): draws pairs of noise and the teacher's sample.
        seen_conditions (`Conditions`, *optional*): under which a discriminator sees the student's samples: as it sees
            the real ones.
    """

    z: torch.Tensor
    conditions: Conditions
    score_conditions: Conditions
    empty: Conditions
    noise: torch.Tensor
    t: torch.Tensor
    times: UniformTimes | LogUniformTimes
    key: tuple
    samples: torch.Tensor | None = None
    student_t: torch.Tensor | None = None
    real: Callable[[int], RealBatch] | None = None
    pair: Callable[[], PairBatch] | None = None
    seen_conditions: Conditions | None = None

    def random(self, *names) -> torch.Generator:
        """A generator of its own for further random numbers, on the CPU."""
        return generator(*self.key, *names)

    def fresh_noise(self, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Other noise and times for the same samples, for update number `repeat` of the fake score."""
        random, device = self.random(repeat), self.z.device
        noise = torch.randn(self.z.shape, generator=random)
        return to_device(noise, device), to_device(self.times.sample(len(self.z), random), device)

    def guidance_noise(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise and timesteps for the same samples, at most those at which the student was evaluated."""
        random, device = self.random("guidance"), self.z.device
        noise, share = torch.randn(self.z.shape, generator=random), torch.rand(len(self.z), generator=random)
        return to_device(noise, device), self.times.up_to(self.student_t, to_device(share, device))
