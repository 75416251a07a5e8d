# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a network is conditioned on beside x_t and t."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class Conditions:
    """Named tensors of n rows each, one row a sample. Without tensors the network is unconditional.

    The names are those of the family: "text" (n, tokens, size), "pooled" (n, size), "sizes" (n, 6), ...

    Args:
        tensors (`dict[str, torch.Tensor]`).
        rows (`int`, *optional*): n; needed only where there are no tensors.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: int | None = None

    def __post_init__(self):
        if self.rows is None:
            self.rows = len(next(iter(self.tensors.values())))

    def __len__(self) -> int:
        return self.rows

    def map(self, fn: Callable, *others: "Conditions") -> "Conditions":
        """`fn` of every tensor, and of the tensors of that name in the others."""
        tensors = {name: fn(value, *(other.tensors[name] for other in others)) for name, value in self.tensors.items()}
        return Conditions(tensors, None if tensors else self.rows)

    def __getitem__(self, index: slice | torch.Tensor) -> "Conditions":
        """The rows of a slice, of indices, or of a mask."""
        if not self.tensors:
            return Conditions(
                rows=len(torch.empty(self.rows)[index.cpu() if isinstance(index, torch.Tensor) else index])
            )
        return self.map(lambda value: value[index])

    def to(self, device: torch.device | str) -> "Conditions":
        """On another device. From the CPU to a GPU without waiting for the work that is queued there."""
        return self.map(lambda value: to_device(value, device))

    def expand(self, n: int) -> "Conditions":
        """One row, n times."""
        return Conditions({name: value.expand(n, *value.shape[1:]) for name, value in self.tensors.items()}, n)

    def where(self, mask: torch.Tensor, other: "Conditions") -> "Conditions":
        """The rows of `other` where the mask `(n,)` is true, those of this one elsewhere."""
        return self.map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.dim() - 1)), b, a), other)

    def cat(self, *others: "Conditions") -> "Conditions":
        """The rows of this one and then of the others."""
        if not self.tensors:
            return Conditions(rows=sum(map(len, (self, *others))))
        return self.map(lambda *parts: torch.cat(parts), *others)

    def joined(self, more: Mapping[str, torch.Tensor]) -> "Conditions":
        """With further tensors of one row, repeated for every row."""
        repeated = Conditions(dict(more), 1).expand(len(self))
        return Conditions({**self.tensors, **repeated.tensors}, len(self))


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on a device. Pinned memory lets the copy to a GPU run beside the work that is queued there."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
