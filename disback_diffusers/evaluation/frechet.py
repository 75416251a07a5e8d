# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The Fréchet distance between two sets of features, each modelled as a Gaussian."""

import torch

from ..errors import UsageError


def statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and covariance (d, d) of features (n, d), float64.

    Raises:
        UsageError: of one image, which has no covariance.
    """
    if len(features) < 2:
        raise UsageError("the Fréchet distance needs at least 2 images.")
    features = features.double()
    return features.mean(dim=0), features.T.cov()


def frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), computed in float64.

    The trace of the matrix root is the sum of the square roots of the eigenvalues of C_a C_b. These are real and not
    negative, apart from rounding errors.

    Args:
        mean_a, mean_b (`torch.Tensor` of shape `(d,)`).
        covariance_a, covariance_b (`torch.Tensor` of shape `(d, d)`).
    """
    mean_a, covariance_a, mean_b, covariance_b = (x.double() for x in (mean_a, covariance_a, mean_b, covariance_b))
    roots = torch.linalg.eigvals(covariance_a @ covariance_b).real.clamp(min=0).sqrt()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * roots.sum()
    return distance.item()
