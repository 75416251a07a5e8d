# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What each step trains on, from (seed, stage, step, process) alone, so that a resumed run sees the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..data.bank import PromptBank
from ..data.real_images import Samples
from ..diffusion.times import LogUniformTimes, UniformTimes
from ..models.batch import Batch, PairBatch, RealBatch, generator
from ..models.conditions import Conditions, to_device
from ..models.sizes import Bucket
from .parallel import Replicated
from .settings import DataArguments


@dataclass
class RealData:
    """Real samples for a discriminator.

    Attributes:
        samples (`Samples`). sizes (`dict`): height and width in pixels by the shape of a sample.
        bank (`PromptBank` or `None`): their captions.
    """

    samples: Samples
    sizes: dict[tuple[int, ...], tuple[int, int]]
    bank: PromptBank | None


class BatchSource:
    """Makes batches on the CPU, the same for the same step on any device, and puts them on the device of the run.

    Args:
        bank (`PromptBank`).
        buckets (`list[Bucket]`): sizes of samples; each batch has one of them, at random.
        times (`UniformTimes` or `LogUniformTimes`): which times are trained at.
        settings (`DataArguments`): sizes of batches, share of empty prompts.
        seed (`int`).
        parallel (`Replicated`).
    """

    def __init__(
        self,
        bank: PromptBank,
        buckets: list[Bucket],
        times: UniformTimes | LogUniformTimes,
        settings: DataArguments,
        seed: int,
        parallel: Replicated,
    ):
        self.bank, self.buckets, self.times, self.seed = bank, buckets, times, seed
        self.unconditional = settings.negative_prompt or ""
        self.batch_size, self.micro_batches = settings.train_batch_size, settings.gradient_accumulation_steps
        self.proportion_empty, self.parallel, self.device = (
            settings.proportion_empty_prompts,
            parallel,
            parallel.device,
        )
        self._epoch, self._order = None, None
        self.shown: Conditions | None = None  # of the validation prompts
        self.real: RealData | None = None
        self.draw_pairs: Callable[[Batch, Bucket], PairBatch] | None = None

    def show(self, prompts: list[str]) -> None:
        """Encode the validation prompts, while the text encoder is there."""
        self.shown = self.bank.encode(prompts).to("cpu")

    def make(self, stage: str, step: int, index: int = 0, size: int | None = None) -> Batch:
        """Micro-batch number `index` of update `step` (from 1) of the stage of this name.

        Args:
            size (`int`, *optional*): number of samples; by default the batch size.
        """
        rank, world = self.parallel.rank, self.parallel.world
        key = (self.seed, stage, step, index, rank)
        random, n, bucket = generator(*key), size or self.batch_size, self._bucket(stage, step, index)
        shape = (n, *bucket.shape)
        first = (((step - 1) * self.micro_batches + index) * world + rank) * n
        conditions = self.conditions([self._prompt(first + i) for i in range(n)], bucket)
        empty = self.empty(n, bucket)
        z, noise = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        emptied = torch.rand(n, generator=random) < self.proportion_empty
        t = self.times.sample(n, random)
        z, noise, t, emptied = (to_device(value, self.device) for value in (z, noise, t, emptied))
        batch = Batch(z, conditions, conditions.where(emptied, empty), empty, noise, t, self.times, key)
        if self.draw_pairs:
            batch.pair = partial(self.draw_pairs, batch, bucket)
        if self.real:
            batch.seen_conditions = batch.score_conditions if self.real.bank else empty
            batch.real = partial(self._real, batch, bucket)
        return batch

    def _real(self, batch, bucket, repeat):
        random, n, shape = batch.random("real", repeat), len(batch.z), batch.z.shape
        rows = torch.randint(len(self.real.samples), (n,), generator=random).tolist()
        noise, shift = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
        emptied = torch.rand(n, generator=random) < self.proportion_empty
        samples = self.real.samples.rows(self.real.sizes[bucket.shape], rows)
        samples, noise, shift, emptied = (to_device(x, self.device) for x in (samples, noise, shift, emptied))
        if not self.real.bank:
            return RealBatch(samples, batch.empty, noise, shift)
        conditions = self._complete(self.real.bank.batch(rows), bucket)
        return RealBatch(samples, conditions.where(emptied, batch.empty), noise, shift)

    def conditions(self, prompts: list[int], bucket: Bucket | None = None) -> Conditions:
        """Conditions of the prompts with these numbers, by default for the first size."""
        return self._complete(self.bank.batch(prompts), bucket)

    def empty(self, n: int, bucket: Bucket | None = None) -> Conditions:
        """The conditions of the empty prompt, n times."""
        return self._complete(self.bank.empty, bucket).expand(n)

    def shown_conditions(self, rows: list[int]) -> Conditions:
        """Conditions of the validation prompts with these numbers, for the first size."""
        return self._complete(self.shown[torch.tensor(rows)], None)

    def _complete(self, conditions, bucket):
        return conditions.joined((bucket or self.buckets[0]).conditions).to(self.device)

    def _bucket(self, stage, step, index):
        """The same one on every process, so that none has to wait for a larger image of another."""
        random = generator(self.seed, stage, step, index, "bucket")
        return self.buckets[torch.randint(len(self.buckets), (), generator=random)]

    def _prompt(self, position):
        """Number of the prompt at this position of an endless walk: every prompt once an epoch, in a new order."""
        epoch, offset = divmod(position, len(self.bank))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self.bank), generator=generator(self.seed, "order", epoch)).tolist()
        return self._order[offset]
