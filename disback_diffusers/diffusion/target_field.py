# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How far a score is from the true one: the stable target field, and the mismatch degree measured with it.

Float64 inside whatever comes in: at low noise the weights are exp(-distance / sigma^2), which leaves no room for the
rounding of float32.
"""

import torch

from .losses import per_sample
from .noise import NoiseSchedule, Time


@torch.no_grad()
def stable_target_score(
    x_t: torch.Tensor, sigma: float | torch.Tensor, reference: torch.Tensor, alpha: float | torch.Tensor = 1.0
) -> torch.Tensor:
    """The score of the noised distribution of `reference`, grad log p_t(x_t), by a stable target field (Eq. 13-18).

    p_t is taken as the mixture of N(alpha x0, sigma^2 I) over the reference samples x0, whose score is
    (alpha E[x0 | x_t] - x_t) / sigma^2 with the posterior mean as a softmax over the samples. For samples of some
    distribution it tends to that distribution's own score, with an error like 1/sqrt(m); the fewer of them are
    within sigma of x_t, the larger m must be. Where a sample is noised and is itself among the m, its own weight is
    nearly 1 until ln m is about the squared distance to the others over 2 sigma^2.

    Args:
        x_t (`torch.Tensor` of shape `(n, ...)`): where.
        sigma (`float` or `torch.Tensor` of shape `(n,)` or `(n, 1, ...)`): noise level, above 0.
        reference (`torch.Tensor` of shape `(m, ...)`): clean samples.
        alpha (`float` or `torch.Tensor` of shape `(n,)` or `(n, 1, ...)`, *optional*, defaults to 1): of x0 in x_t.

    Returns:
        a tensor of the shape of `x_t`, float64.

    Raises:
        ValueError: shapes differ, no reference samples, or sigma not above 0.
    """
    if reference.shape[1:] != x_t.shape[1:] or len(reference) == 0:
        raise ValueError(
            f"reference must be (m, ...) like x_t {tuple(x_t.shape)}, m > 0; got {tuple(reference.shape)}"
        )
    x_t, reference = x_t.double(), reference.to(x_t.device, torch.float64)
    alpha, sigma = per_sample("alpha", alpha, x_t), per_sample("sigma", sigma, x_t)
    if not bool((sigma > 0).all()):
        raise ValueError("sigma must be above 0")
    rows, points = x_t.reshape(len(x_t), -1), reference.reshape(len(reference), -1)
    flat_alpha, flat_sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
    # -|x_t - alpha x0|^2 / (2 sigma^2) without |x_t|^2, which is the same for all samples of a row
    logits = flat_alpha * (rows @ points.T) - flat_alpha**2 * points.square().sum(1) / 2
    mean = (logits / flat_sigma**2).softmax(dim=1) @ points
    return (alpha * mean.reshape(x_t.shape) - x_t) / sigma**2


def mismatch_degree(
    score: torch.Tensor, x_t: torch.Tensor, t: Time, reference: torch.Tensor, schedule: NoiseSchedule
) -> torch.Tensor:
    """Mean distance of a score from the true one, E |score - grad log p_t(x_t)|_2 (Eq. 9).

    The assessed distribution is given by its samples, `reference`; `x_t` are noised samples of it. The teacher's score
    on a student's samples starts large and falls as the student becomes like the teacher's data. Measured on the
    training data it has its lower bound, the teacher's own error.

    Args:
        score (`torch.Tensor` of shape `(n, ...)`): of the network assessed, at `x_t` (`NoiseSchedule.to_score`).
        x_t (`torch.Tensor` of shape `(n, ...)`): noised samples of the assessed distribution.
        t (`int`, `float` or `torch.Tensor` of shape `()` or `(n,)`): times of `schedule`.
        reference (`torch.Tensor` of shape `(m, ...)`): clean samples of the assessed distribution.
        schedule (`NoiseSchedule`).

    Returns:
        one distance a sample, a tensor of shape `(n,)`, float64; their mean is Eq. 9.

    Raises:
        ValueError: as `stable_target_score`; `t` out of range.
    """
    if score.shape != x_t.shape:
        raise ValueError(f"score has shape {tuple(score.shape)} but x_t has {tuple(x_t.shape)}")
    alpha, sigma = schedule.alpha_sigma(t, x_t.double())
    difference = score.double() - stable_target_score(x_t, sigma, reference, alpha)
    return difference.reshape(len(x_t), -1).norm(dim=1)
