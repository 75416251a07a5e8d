# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Metrics on features of generated and real images, besides the Fréchet distance.

Features are (n, d), one row per image. Everything is computed in float64 and returned as floats.
"""

import torch


def kernel_distance(
    generated: torch.Tensor, real: torch.Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID (Binkowski et al., 2018): the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3.

    It is the unbiased estimate on random subsets of both, so it can be slightly negative.

    Args:
        generated, real (`torch.Tensor` of shape `(n, d)` and `(m, d)`).
        subsets (`int`): number of subsets.
        size (`int`): rows per subset, at most the number of rows on each side.
        seed (`int`): for the choice of the subsets.

    Returns:
        `tuple[float, float]`: mean and standard deviation over the subsets.

    Raises:
        ValueError: fewer than 2 rows on a side.
    """
    size = min(size, len(generated), len(real))
    if size < 2:
        raise ValueError("the kernel distance needs at least 2 images on each side")
    random = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=random)[:size]].double() for rows in (generated, real))
        within = [(_kernel(a, a).sum() - _kernel(a, a).trace()) / (size * (size - 1)) for a in (x, y)]
        values.append(sum(within) - 2 * _kernel(x, y).mean())
    values = torch.stack(values)
    return values.mean().item(), values.std(unbiased=False).item()


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def coverage_metrics(generated: torch.Tensor, real: torch.Tensor, k: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    The ball of an image reaches to its k-th nearest other image of the same kind.

    - Precision: share of generated images that are in the ball of a real image.
    - Recall: share of real images that are in the ball of a generated image.
    - Density: mean number of balls of real images that a generated image is in, divided by k.
    - Coverage: share of real images with a generated image in their ball.

    Args:
        generated, real (`torch.Tensor` of shape `(n, d)` and `(m, d)`).
        k (`int`): neighbours.

    Returns:
        `dict` with `precision`, `recall`, `density`, `coverage`.

    Raises:
        ValueError: not more than `k` rows on a side.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"precision, recall, density and coverage need more than {k} images on each side")
    generated, real = generated.double(), real.double()
    real_radius, generated_radius = _radius(real, k), _radius(generated, k)
    inside_real = torch.zeros(len(generated), dtype=torch.float64)  # balls of real images that it is in
    recalled, covered = [], []
    for rows, radius in zip(real.split(1024), real_radius.split(1024)):
        distance = torch.cdist(rows, generated)
        within = distance <= radius[:, None]
        inside_real += within.sum(dim=0)
        covered.append(within.any(dim=1))
        recalled.append((distance <= generated_radius).any(dim=1))
    return {
        "precision": (inside_real > 0).double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": (inside_real.mean() / k).item(),
        "coverage": torch.cat(covered).double().mean().item(),
    }


def _radius(features, k):
    """Distance of each row to its k-th nearest other row."""
    radii = [torch.cdist(rows, features).kthvalue(k + 1).values for rows in features.split(1024)]
    return torch.cat(radii)
