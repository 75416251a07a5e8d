# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Classifier-free guidance (Ho and Salimans, 2022)."""

from collections.abc import Callable
from typing import Any

import torch

from .losses import per_sample
from .noise import same_shape_floats


def classifier_free_guidance(
    unconditional: torch.Tensor, conditional: torch.Tensor, scale: float | torch.Tensor
) -> torch.Tensor:
    """unconditional + scale (conditional - unconditional).

    Args:
        unconditional (`torch.Tensor` of shape `(n, ...)`): prediction for the empty prompt.
        conditional (`torch.Tensor` of shape `(n, ...)`): prediction for the prompt, in the same parameterisation.
        scale (`float`, or `torch.Tensor` of shape `(n,)`): 0 is unconditional, 1 conditional, above 1 extrapolates.

    Raises:
        ValueError: shapes differ.
    """
    unconditional, conditional = same_shape_floats(unconditional=unconditional, conditional=conditional)
    return unconditional + per_sample("scale", scale, conditional) * (conditional - unconditional)


def guided_output(
    predict: Callable,
    x_t: torch.Tensor,
    t: torch.Tensor,
    conditions: Any,
    empty: Any,
    scale: float | torch.Tensor,
    conditional: torch.Tensor | None = None,
) -> torch.Tensor:
    """The guided prediction of a network, in one forward where possible.

    Args:
        predict: `(x_t, t, conditions) -> torch.Tensor of shape (n, ...)`, such as `Denoiser.output`.
        x_t (`torch.Tensor` of shape `(n, ...)`), t (`torch.Tensor` of shape `(n,)`): noisy samples and their times.
        conditions, empty (`Conditions`): n rows each: the prompts, and the empty prompt.
        scale (`float`, or `torch.Tensor` of shape `(n,)`): the number 1 is no guidance, and no second forward.
        conditional (`torch.Tensor` of shape `(n, ...)`, *optional*): the prediction for `conditions`, where it is
            known already.
    """
    if isinstance(scale, int | float) and scale == 1:
        return predict(x_t, t, conditions) if conditional is None else conditional
    if conditional is not None:
        return classifier_free_guidance(predict(x_t, t, empty), conditional, scale)
    both = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), empty.cat(conditions))
    return classifier_free_guidance(*both.chunk(2), scale)
