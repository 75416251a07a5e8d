# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Kernel distance against torchmetrics and against its closed form; coverage metrics against points on a line."""

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from disback_diffusers.evaluation.metrics import coverage_metrics, kernel_distance


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_kernel_distance_is_that_of_torchmetrics():
    x, y = random(40, 8, seed=1), 0.7 * random(30, 8, seed=2) + 0.3
    mean, spread = kernel_distance(x, y, subsets=1, size=1000)
    order = torch.Generator().manual_seed(0)
    x, y = x[torch.randperm(40, generator=order)[:30]], y[torch.randperm(30, generator=order)]
    assert mean == pytest.approx(poly_mmd(x, y).item(), rel=1e-9) and spread == 0


def test_it_is_unbiased():
    """One dimension, means 0 and 1 without spread: k(0,0) = 1, k(1,1) = 8, k(0,1) = 1."""
    mean, spread = kernel_distance(torch.zeros(5, 1), torch.ones(7, 1), subsets=3, size=4)
    assert (mean, spread) == (1 + 8 - 2, 0)
    same = [kernel_distance(random(200, 4, seed=s), random(200, 4, seed=100 + s), subsets=1)[0] for s in range(40)]
    same = torch.tensor(same)
    assert same.min() < 0 < same.max() and abs(same.mean()) < 3 * same.std() / 40**0.5


def test_coverage_metrics_of_points_on_a_line():
    """Real at 0, 1, 2, 10: with one neighbour the radii are 1, 1, 1, 8."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    found = coverage_metrics(torch.tensor([[0.5], [2.5], [30.0]]), real, k=1)
    # 0.5 is in the balls of 0 and 1; 2.5 in those of 2 and 10; 30 in none. Radii of the generated: 2, 2, 27.5.
    assert found["precision"] == pytest.approx(2 / 3) and found["density"] == pytest.approx(4 / 3)
    assert found["coverage"] == 1.0  # each real ball holds one
    assert found["recall"] == 1.0  # 0, 1 and 2 are within 2 of 0.5; 10 within 27.5 of 30
    near = coverage_metrics(torch.tensor([[0.4], [0.5]]), real, k=1)
    assert near["recall"] == 0.0 and near["coverage"] == 0.5 and near["precision"] == 1.0


def test_parts_make_no_difference():
    generated, real = random(2500, 3, seed=1), 1.5 * random(1300, 3, seed=2)
    found = coverage_metrics(generated, real)
    distance, own = torch.cdist(real, generated), torch.cdist(real, real)
    radius = own.sort(dim=1).values[:, 5]
    assert found["coverage"] == pytest.approx((distance <= radius[:, None]).any(1).double().mean().item())
    assert found["density"] == pytest.approx((distance <= radius[:, None]).sum().item() / 2500 / 5)


def test_too_few_images():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="more than 5"):
        coverage_metrics(torch.zeros(9, 2), torch.zeros(5, 2))
