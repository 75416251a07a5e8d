# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from disback_diffusers.diffusion.agreement import score_agreement


def rows(*values):
    return torch.tensor(values, dtype=torch.float64).view(len(values), 1, 2)


def test_numbers_by_hand():
    """Two samples at the origin: directions at a right angle, and the same one of half the length."""
    found = score_agreement(rows([0, 0], [0, 0]), rows([0, 3], [1, 0]), rows([4, 0], [2, 0]))
    assert found["score_cosine"].item() == pytest.approx((0 + 1) / 2)
    assert found["score_ratio"].item() == pytest.approx((3 + 1) / (4 + 2))
    assert found["relative_gap"].item() == pytest.approx((4 + 3 + 1) / (4 + 2))


def test_scores_that_agree():
    x0, estimate = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    found = score_agreement(x0, estimate, estimate)
    assert {name: round(value.item(), 5) for name, value in found.items()} == {
        "relative_gap": 0.0,
        "score_cosine": 1.0,
        "score_ratio": 1.0,
    }
    assert not any(value.requires_grad for value in score_agreement(x0.requires_grad_(), estimate, estimate).values())


def test_a_fake_score_that_fits_the_samples_has_the_shorter_way():
    """Gaussians: the exact posterior mean of the samples' distribution is nearer to them than that of another."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = 0.5 * torch.randn(2000, 8, generator=generator), torch.randn(2000, 8, generator=generator)
    x_t = x0 + noise

    def denoised(mean, variance):
        return mean + variance / (variance + 1) * (x_t - mean)

    right, other = denoised(0.0, 0.25), denoised(1.0, 0.5)
    assert score_agreement(x0, right, other)["score_ratio"] < 0.9
    assert score_agreement(x0, other, right)["score_ratio"] > 1.1
