# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What DisBack minimises: the denoising loss of the scores and the distribution-matching gradient of the student.

As in `noise.py`: float32 inside and out, or float64 as soon as one input is float64.
"""

import torch

from .noise import NoiseSchedule, Time, same_shape_floats


WEIGHTINGS = ("dmd", "vsd", "uniform")
# Default floor of the dmd denominator: below it mean|x0 - x0_target| is float32 rounding of latents of order 1.
SMALLEST_DISTANCE = 1e-6


def denoising_loss(
    model_output: torch.Tensor,
    x0: torch.Tensor,
    noise: torch.Tensor,
    t: Time,
    schedule: NoiseSchedule,
    prediction_type: str | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Mean squared error of a score network in its own parameterisation (Eq. 5 and 7 up to a weight in t).

    `model_output` is the network's prediction at x_t = alpha x0 + sigma noise. It is compared with the noise
    ("epsilon"), the velocity ("v_prediction") or x0 ("sample"). No gradient flows into `x0` or `noise` this way.

    Args:
        model_output (`torch.Tensor` of shape `(n, ...)`): the network's prediction.
        x0 (`torch.Tensor` of shape `(n, ...)`): clean samples (in DisBack: of the student).
        noise (`torch.Tensor` of shape `(n, ...)`): the standard normal noise in x_t.
        t (`int`, `float` or `torch.Tensor` of shape `()` or `(n,)`): times of `schedule`.
        schedule (`NoiseSchedule`): how x_t was made.
        prediction_type (`str`, *optional*): another parameterisation than the schedule's own.
        reduction (`str`, *optional*, defaults to "mean"): "mean" over everything, or "none" for one mean a sample.

    Returns:
        a scalar, or with "none" a tensor of shape `(n,)`.

    Raises:
        ValueError: shapes differ, `t` out of range, unknown prediction type or reduction.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction {reduction!r} is unknown; known: mean, none")
    target = schedule.prediction_target(x0.detach(), noise.detach(), t, prediction_type)
    model_output, target = same_shape_floats(model_output=model_output, x0=target)
    errors = (model_output - target).square()
    return errors.mean() if reduction == "mean" else errors.reshape(len(errors), -1).mean(1)


def adversarial_score_loss(
    model_output: torch.Tensor,
    target_output: torch.Tensor,
    x0: torch.Tensor,
    noise: torch.Tensor,
    t: Time,
    schedule: NoiseSchedule,
    gamma: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of a fake score that is pushed away from the target (ASD, Wei et al., 2024).

    With gamma = 0 it is the denoising loss, whose minimum is the score s of the samples. With gamma in (-1, 0) the
    minimum is s + gamma / (1 + gamma) (s_target - s): its difference to s_target is 1 / (1 + gamma) times as large.

    Args:
        model_output, target_output (`torch.Tensor` of shape `(n, ...)`): predictions of the fake score and the target
            at the same x_t, of the same parameterisation.
        x0, noise, t, schedule: as in `denoising_loss`.
        gamma (`float`): weight of the squared distance to the target.

    Returns:
        three scalars: the loss, the denoising loss, and the mean squared distance to the target.

    Raises:
        ValueError: as in `denoising_loss`.
    """
    denoising = denoising_loss(model_output, x0, noise, t, schedule)
    model_output, target_output = same_shape_floats(model_output=model_output, target_output=target_output.detach())
    distance = (model_output - target_output).square().mean()
    return denoising + gamma * distance, denoising, distance


@torch.no_grad()
def distribution_matching_gradient(
    x0: torch.Tensor,
    x0_fake: torch.Tensor,
    x0_target: torch.Tensor,
    weighting: str = "dmd",
    alpha: float | torch.Tensor | None = None,
    sigma: float | torch.Tensor | None = None,
    floor: float = SMALLEST_DISTANCE,
) -> torch.Tensor:
    """The student's gradient with respect to x0: weight * alpha * (s_fake - s_target) (Eq. 6 and 8).

    With both scores written through their estimates of x0, s = (alpha x0_estimate - x_t) / sigma^2, this is
    weight * alpha^2 / sigma^2 * (x0_fake - x0_target). Going against it lowers KL(student || target). The weights:

    - "uniform": 1, Eq. 8 as written; needs alpha and sigma;
    - "vsd": sigma^2, which leaves alpha^2 (x0_fake - x0_target); needs alpha;
    - "dmd": makes each sample's gradient (x0_fake - x0_target) / mean|x0 - x0_target|; needs neither.

    Args:
        x0 (`torch.Tensor` of shape `(n, ...)`): the student's samples.
        x0_fake (`torch.Tensor` of shape `(n, ...)`): the fake score's estimate of x0 from x_t.
        x0_target (`torch.Tensor` of shape `(n, ...)`): the target's estimate of x0 from the same x_t.
        weighting (`str`, *optional*, defaults to "dmd"): "dmd", "vsd" or "uniform".
        alpha (`float` or `torch.Tensor` of shape `(n, 1, ...)` or `(n,)`, *optional*): alpha(t).
        sigma (`float` or `torch.Tensor` of shape `(n, 1, ...)` or `(n,)`, *optional*): sigma(t).
        floor (`float`, *optional*, defaults to 1e-6): the least that mean|x0 - x0_target| is taken as, for "dmd".

    Returns:
        a tensor of the shape of `x0`, float32 or float64, detached. Not-a-number in the inputs stays visible.

    Raises:
        ValueError: shapes differ, unknown weighting, or alpha or sigma missing.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is unknown; known: {', '.join(WEIGHTINGS)}")
    needed = {"uniform": {"alpha": alpha, "sigma": sigma}, "vsd": {"alpha": alpha}, "dmd": {}}[weighting]
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ValueError(f"weighting {weighting!r} needs {' and '.join(needed)}; missing: {', '.join(missing)}")
    x0, x0_fake, x0_target = same_shape_floats(x0=x0, x0_fake=x0_fake, x0_target=x0_target)
    difference = x0_fake - x0_target
    if weighting == "dmd":
        return difference / mean_distance(x0, x0_target, floor)
    factors = {name: per_sample(name, value, x0) for name, value in needed.items()}
    return (factors["alpha"] / factors.get("sigma", 1)) ** 2 * difference


def surrogate_loss(x0: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """1/2 mean((x0 - stopgrad(x0 - gradient))^2): a scalar whose gradient at x0 is `gradient / x0.numel()`.

    It is computed as (x0 - stopgrad(x0)) + gradient, the same thing without the rounding of `x0 - gradient`, which
    would swallow gradients far smaller than x0.

    Args:
        x0 (`torch.Tensor` of shape `(n, ...)`): the student's samples, attached to the student.
        gradient (`torch.Tensor` of shape `(n, ...)`): from `distribution_matching_gradient`.

    Raises:
        ValueError: shapes differ.
    """
    x0, gradient = same_shape_floats(x0=x0, gradient=gradient)
    return 0.5 * (x0 - x0.detach() + gradient.detach()).square().mean()


def mean_distance(x0: torch.Tensor, x0_target: torch.Tensor, floor: float = SMALLEST_DISTANCE) -> torch.Tensor:
    """mean|x0 - x0_target| of each sample, `(n, 1, ...)`, at least `floor`; NaN stays NaN."""
    distance = (x0 - x0_target).abs().reshape(len(x0), -1).mean(1).clamp(min=floor)
    return per_sample("distance", distance, x0)


def per_sample(name: str, value: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` in the precision of `like`, shaped to multiply sample by sample (a (n,) would meet the width)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    shape = (like.shape[0],) + (1,) * (like.ndim - 1)
    if value.ndim == 0:
        return value
    if tuple(value.shape) not in (shape[:1], shape):
        raise ValueError(f"{name} must be one number or one for each of {like.shape[0]}; got {tuple(value.shape)}")
    return value.reshape(shape)
