# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from disback_diffusers.evaluation.frechet import frechet_distance, statistics


def features(seed, n=500, d=12, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mix + shift


def test_agrees_with_the_matrix_square_root_of_scipy():
    a, b = statistics(features(0)), statistics(features(1, shift=0.5))
    root = sqrtm((a[1] @ b[1]).numpy()).real
    expected = (a[0] - b[0]).square().sum().item() + np.trace(a[1].numpy() + b[1].numpy() - 2 * root)
    assert frechet_distance(*a, *b) == pytest.approx(expected, rel=1e-6)


def test_closed_forms():
    mean, zero = torch.tensor([3.0, 4.0]), torch.zeros(2)
    diagonal = torch.diag(torch.tensor([4.0, 9.0]))
    assert frechet_distance(mean, torch.eye(2), zero, torch.eye(2)) == pytest.approx(25)
    assert frechet_distance(zero, diagonal, zero, torch.eye(2)) == pytest.approx((2 - 1) ** 2 + (3 - 1) ** 2)
    same = statistics(features(2))
    assert frechet_distance(*same, *same) == pytest.approx(0, abs=1e-8)


def test_a_covariance_without_full_rank():
    few = statistics(features(3, n=5))
    assert frechet_distance(*few, *few) == pytest.approx(0, abs=1e-5)


def test_statistics_are_those_of_numpy():
    x = features(4)
    mean, covariance = statistics(x)
    np.testing.assert_allclose(mean, x.double().mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.double().numpy().T))
