# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How far a score is from the true one: the stable target field, and the mismatch degree measured with it.

Float64 inside whatever comes in: at low noise the weights are exp(-distance / sigma^2), which leaves no room for the
rounding of float32.
"""

import math

import torch

from ..errors import UsageError
from .losses import per_sample
from .noise import NoiseSchedule, Time
from .times import times_of_noise


IMAGE_STD = 0.5
LEVELS = (0.7, 1.0, 1.4, 2.0)  # multiples of the noise at which the weights of the samples begin to be even


@torch.no_grad()
def stable_target_score(
    x_t: torch.Tensor,
    sigma: float | torch.Tensor,
    reference: torch.Tensor,
    alpha: float | torch.Tensor = 1.0,
    among: torch.Tensor | None = None,
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
        among (`torch.Tensor` of shape `(n, m)`, bool, *optional*): the samples that count for each x_t; default: all.

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
    if among is not None:
        logits = logits.masked_fill(~among, -math.inf)
    mean = (logits / flat_sigma**2).softmax(dim=1) @ points
    return (alpha * mean.reshape(x_t.shape) - x_t) / sigma**2


def mismatch_degree(
    score: torch.Tensor, x_t: torch.Tensor, t: Time, reference: torch.Tensor, schedule: NoiseSchedule
) -> torch.Tensor:
    """Mean distance of a score from the true one, E |score - grad log p_t(x_t)|_2 (Eq. 9).

    The assessed distribution is given by its samples, `reference`; `x_t` are noised samples of it. The estimate of the
    true score has an error of its own, which grows with the spread of the samples. `squared_mismatch` is free of it,
    where the noise is large enough.

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


def squared_mismatch(
    score: torch.Tensor, x_t: torch.Tensor, t: Time, samples: torch.Tensor, schedule: NoiseSchedule
) -> torch.Tensor:
    """Squared distance of a score from the true one, the square of Eq. 9, without the error of finitely many samples.

    The true score at each noised sample is estimated twice, by the even and by the odd ones of the other samples. The
    two errors are independent, so the product of the two differences has the squared distance as its mean. A single
    product can be negative. The times must be noisy enough for many samples to have weight (`image_times`).

    Args:
        score (`torch.Tensor` of shape `(n, ...)`): of the network assessed, at `x_t`.
        x_t (`torch.Tensor` of shape `(n, ...)`): the samples, noised.
        t (`int`, `float` or `torch.Tensor` of shape `()` or `(n,)`): times of `schedule`.
        samples (`torch.Tensor` of shape `(n, ...)`): of the assessed distribution, at least 4.
        schedule (`NoiseSchedule`).

    Returns:
        a tensor of shape `(n,)`, float64.

    Raises:
        ValueError: the shapes differ, fewer than 4 samples, or `t` out of range.
    """
    if not score.shape == x_t.shape == samples.shape or len(samples) < 4:
        shapes = ", ".join(str(tuple(each.shape)) for each in (score, x_t, samples))
        raise ValueError(f"score, x_t and samples must have one shape (n, ...), n at least 4; got {shapes}")
    alpha, sigma = schedule.alpha_sigma(t, x_t.double())
    number = torch.arange(len(samples), device=x_t.device)
    others = number[:, None] != number
    differences = []
    for half in (0, 1):
        true = stable_target_score(x_t, sigma, samples, alpha, among=others & (number % 2 == half))
        differences.append((score.double() - true).reshape(len(x_t), -1))
    return (differences[0] * differences[1]).sum(dim=1)


def image_times(schedule: NoiseSchedule, shape: tuple[int, ...]) -> torch.Tensor:
    """Times `(4,)` noisy enough for `squared_mismatch` of images of this shape, standard deviation 0.5.

    With less noise, few samples have weight, at last only the nearest one. The logarithms of the weights vary by
    about s sqrt(d) / sigma over d values of standard deviation s.

    Raises:
        UsageError: the schedule has not enough noise for images so large.
    """
    even = IMAGE_STD * math.sqrt(math.prod(shape))
    times = times_of_noise(schedule, even * torch.tensor(LEVELS))
    alpha, sigma = schedule.alpha_sigma(times[:1], torch.empty(1))
    if sigma < 0.99 * LEVELS[0] * even * alpha:
        size = "x".join(map(str, shape[1:]))
        raise UsageError(
            f"the teacher's noise is too little to estimate a score of {size} images: measure FD instead."
        )
    return times
