# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What is computed from features of generated and of real images, beside the Fréchet distance.

Features are (n, d), one row an image; everything is computed in float64 and returned as floats.
"""

import torch


def kernel_distance(generated, real, subsets=100, size=1000, seed=0):
    """KID (Binkowski et al., 2018): the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3.

    The unbiased estimate, which may be slightly negative, on random subsets of both.

    Args:
        generated, real (`torch.Tensor` of shape `(n, d)` and `(m, d)`).
        subsets (`int`), size (`int`): how many subsets, and of how many rows (at most as many as there are).
        seed (`int`): of their choice.

    Returns:
        mean and standard deviation over the subsets.

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


def coverage_metrics(generated, real, k=5):
    """Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020).

    Balls reach from each image to its k-th nearest other of the same kind. Precision: share of generated images within
    a ball of real ones; recall: the reverse; density: mean number of balls of real ones a generated image lies in,
    over k; coverage: share of real images with a generated one in their ball.

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
    inside_real = torch.zeros(len(generated), dtype=torch.float64)  # balls of real images that hold it
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
    parts = [torch.cdist(rows, features).kthvalue(k + 1).values for rows in features.split(1024)]
    return torch.cat(parts)
