# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The sizes of the samples that are trained."""

from dataclasses import dataclass, field

import torch

from ..errors import UsageError


LARGEST = 16384  # pixels of a side


@dataclass
class Bucket:
    """One shape of samples to train at.

    Args:
        shape (`tuple[int, ...]`): of a sample as the network sees it, such as (c, h, w) of latents.
        conditions (`dict[str, torch.Tensor]`): what the network is conditioned on for this size, one row each.
    """

    shape: tuple[int, ...]
    conditions: dict[str, torch.Tensor] = field(default_factory=dict)


def pixels(text: str) -> tuple[int, int]:
    """Width and height of "1024" or "832x1216".

    Raises:
        UsageError: it is neither, or too large.
    """
    size = [int(part) for part in text.lower().split("x") if part.isascii() and part.isdigit()]
    if len(size) != text.lower().count("x") + 1 or len(size) > 2 or 0 in size:
        raise UsageError(f"{text} must be pixels, such as 1024 or 832x1216 (width x height).")
    if max(size) > LARGEST:
        raise UsageError(f"{text} is larger than {LARGEST} pixels.")
    return size[0], size[-1]
