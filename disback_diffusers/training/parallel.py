# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How the processes of a run work together."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator

from ..models.conditions import to_device


BUCKET = 2**25  # elements whose gradients are averaged together: 128 MB


class Replicated:
    """Every process holds all weights and trains on samples of its own; gradients are averaged.

    They are averaged here and not by DistributedDataParallel: several roles share one module and run several times an
    iteration, which its reducer either refuses or silently leaves out.

    Args:
        accelerator (`Accelerator`).

    Attributes:
        rank, world (`int`): which process this is, and of how many.
        is_main (`bool`): whether it is the one that writes files.
        device (`torch.device`).
        precision (`str`): "no", "fp16" or "bf16". autocast (`torch.dtype` or `None`): the same, for `Denoiser`.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.is_main, self.device = accelerator.is_main_process, accelerator.device
        self.precision = accelerator.mixed_precision
        self.autocast = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes.

        The gradient of a parameter that no forward of this process used counts as zero; where no process used it,
        there is none.
        """
        if self.world == 1:
            return
        parameters, bucket, size = list(parameters), [], 0
        for parameter in parameters:
            bucket.append(parameter)
            size += parameter.numel()
            if size >= BUCKET or parameter is parameters[-1]:
                self._average(bucket)
                bucket, size = [], 0

    def _average(self, bucket):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        used = torch.tensor([p.grad is not None for p in bucket], dtype=grads[0].dtype)
        flat = torch.cat([*(grad.flatten() for grad in grads), to_device(used, grads[0].device)])
        flat = self._accelerator.reduce(flat, "mean")
        missing = [p for p in bucket if p.grad is None]
        used = flat[-len(bucket) :].tolist() if missing else [1] * len(bucket)  # waits, in this rare case only
        for p, mean, by_any in zip(bucket, flat.split([*(p.numel() for p in bucket), len(bucket)]), used):
            if p.grad is not None:
                p.grad.copy_(mean.view_as(p))
            elif by_any:
                p.grad = mean.view_as(p).clone()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes, the same on all of them."""
        return self._accelerator.reduce(values, "mean") if self.world > 1 else values

    def share(self, n: int) -> list[int]:
        """The items of this process, of `range(n)`. Each gets as many; some may be of another's share as well."""
        return [(self.rank + k * self.world) % n for k in range(-(-n // self.world))]

    def gather(self, rows: torch.Tensor, n: int) -> torch.Tensor:
        """The rows of all `share(n)` in order, `(n, ...)`, on every process and on the device of `rows`."""
        if self.world == 1:
            return rows
        gathered = self._accelerator.gather(rows.contiguous().to(self.device)).to(rows.device)
        by_rank = gathered.view(self.world, -1, *rows.shape[1:])
        return by_rank.transpose(0, 1).reshape(-1, *rows.shape[1:])[:n]

    def map(self, function: Callable[[list[int]], torch.Tensor], n: int, size: int) -> torch.Tensor:
        """`function` of all items of `range(n)`, each process taking its share, `size` items a call.

        Args:
            function: from items to a tensor with a row for each.

        Returns:
            the rows of all items, on every process.
        """
        share = self.share(n)
        return self.gather(torch.cat([function(share[i : i + size]) for i in range(0, len(share), size)]), n)

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def main_first(self) -> AbstractContextManager:
        """A block that the main process goes through before the others."""
        return self._accelerator.main_process_first()
