# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""EDM's sampler, which diffusers does not have."""

from collections.abc import Callable

import torch


def heun(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """Samples by Heun's second-order method (Karras et al., 2022, Alg. 1).

    It takes two evaluations a step, but one for the last.

    Args:
        denoise: `(x_t, sigma) -> x0`, noisy samples `(n, ...)` and their noise levels `(n,)` to the estimate of x0.
        x (`torch.Tensor` of shape `(n, ...)`): pure noise of the first level.
        levels (`torch.Tensor` of shape `(steps + 1,)`): descending, the last one 0.

    Returns:
        x0, a tensor of the shape of `x`.
    """

    def slope(x, level):
        return (x - denoise(x, torch.full((len(x),), level, dtype=torch.float32, device=x.device))) / level

    for level, below in zip(levels.tolist(), levels[1:].tolist()):
        first = slope(x, level)
        euler = x + (below - level) * first
        x = euler if below == 0 else x + (below - level) * (first + slope(euler, below)) / 2
    return x
