# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Score identity distillation, SiD (Zhou et al., 2024)."""

import torch

from .losses import SMALLEST_DISTANCE, mean_distance
from .noise import same_shape_floats


def score_identity_loss(
    x0: torch.Tensor,
    x0_fake: torch.Tensor,
    x0_target: torch.Tensor,
    alpha: float = 1.0,
    floor: float = SMALLEST_DISTANCE,
) -> torch.Tensor:
    """SiD's loss, L2 - alpha L1, for the Fisher divergence between the student's and the target's distributions.

    With f the fake score's estimate of x0 and r the target's, L1 = (r - f)^2 and L2 = (r - f) (r - x0). With a perfect
    fake score both have the same expectation, as E[f - x0 | x_t] = 0. Their gradients differ and are both biased, as f
    is held fixed though it depends on the student: L2 points the right way, and alpha corrects it (SiD, Sec. 3.3).
    The terms are summed over a sample and divided by its mean|x0 - r|, without a gradient through that.

    Args:
        x0 (`torch.Tensor` of shape `(n, ...)`): the student's samples, with a gradient.
        x0_fake, x0_target (`torch.Tensor` of shape `(n, ...)`): estimates from x_t, differentiable in x0.
        alpha (`float`, *optional*, defaults to 1): 1 to 1.2 in the paper.
        floor (`float`, *optional*): the least that mean|x0 - r| is taken as.

    Returns:
        a scalar: the sum over samples and elements, so that its gradient at x0 is of the size of
        `distribution_matching_gradient`.

    Raises:
        ValueError: shapes differ.
    """
    x0, x0_fake, x0_target = same_shape_floats(x0=x0, x0_fake=x0_fake, x0_target=x0_target)
    difference = x0_target - x0_fake
    products = difference * (x0_fake - x0 + (1 - alpha) * difference)
    return (products / mean_distance(x0.detach(), x0_target.detach(), floor)).sum()
