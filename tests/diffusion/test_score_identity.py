# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""SiD's loss on Gaussians, where both scores are affine and expectations of quadratic functions are exact."""

import pytest
import torch

from disback_diffusers.diffusion.score_identity import score_identity_loss


D, ALPHA, SIGMA = 3, 0.8, 0.6
CONSTANT = 1e6  # a floor above every distance: then the weight is the same for all samples


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(dimension):
    """2 * dimension equally weighted points with mean 0 and covariance 1."""
    axes = dimension**0.5 * torch.eye(dimension, dtype=torch.float64)
    return torch.cat([axes, -axes])


class Gaussian:
    """x0 ~ N(mean, std^2), with the estimate of x0 from x_t."""

    def __init__(self, mean, std):
        self.mean, self.gain = mean, ALPHA * std**2 / (ALPHA**2 * std**2 + SIGMA**2)

    def x0(self, x_t):
        return self.mean + self.gain * (x_t - ALPHA * self.mean)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_loss_and_gradient_are_those_written_out(alpha):
    """Of two affine scores; the gradient by hand, with the weight held fixed."""
    x0, noise = random(5, D, seed=0).requires_grad_(), random(5, D, seed=1)
    (slope_f, slope_r), (f0, r0) = random(2, D, D, seed=2), random(2, D, seed=3)
    x_t = ALPHA * x0 + SIGMA * noise
    f, r = x_t @ slope_f + f0, x_t @ slope_r + r0
    loss = score_identity_loss(x0, f, r, alpha)
    (gradient,) = torch.autograd.grad(loss, x0)

    f, r, x0 = f.detach(), r.detach(), x0.detach()
    weight = 1 / (x0 - r).abs().mean(dim=1, keepdim=True)
    torch.testing.assert_close(loss.detach(), (weight * ((r - f) * (r - x0) - alpha * (r - f) ** 2)).sum())
    both = ALPHA * (slope_r - slope_f)
    by_hand = (r - x0 - 2 * alpha * (r - f)) @ both.T + (r - f) @ (ALPHA * slope_r - torch.eye(D)).T
    torch.testing.assert_close(gradient, weight * by_hand)


def test_with_a_perfect_fake_score_both_terms_have_the_expectation_of_the_squared_distance():
    student, target = Gaussian(random(D, seed=0), 0.7), Gaussian(random(D, seed=1), 1.3)
    z, noise = points(2 * D).split(D, dim=1)
    x0 = student.mean + 0.7 * z
    x_t = ALPHA * x0 + SIGMA * noise
    f, r = student.x0(x_t), target.x0(x_t)
    fisher = (r - f).square().sum()
    for alpha in (0.0, 0.5, 1.2):
        torch.testing.assert_close(CONSTANT * score_identity_loss(x0, f, r, alpha, CONSTANT), (1 - alpha) * fisher)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_gradient_points_to_the_target(alpha):
    """For distributions that differ in their means, it is half the Fisher divergence's, whatever alpha is."""
    mean = random(D, seed=0).requires_grad_()
    student, target = Gaussian(mean.detach(), 0.7), Gaussian(random(D, seed=1), 0.7)
    z, noise = points(2 * D).split(D, dim=1)
    x0 = mean + 0.7 * z
    x_t = ALPHA * x0 + SIGMA * noise
    loss = CONSTANT * score_identity_loss(x0, student.x0(x_t), target.x0(x_t), alpha, CONSTANT) / len(z)
    (found,) = torch.autograd.grad(loss, mean)
    fisher = (1 - ALPHA * target.gain) ** 2 * (target.mean - mean).square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(fisher, mean)[0] / 2)


def test_the_floor_limits_the_weight_of_samples_at_the_target():
    x0, fake = random(2, D, seed=0), random(2, D, seed=1)
    target = x0 + torch.tensor([[1e-4], [1.0]])
    tiny, floored = (score_identity_loss(x0[:1], fake[:1], target[:1], 1.0, floor) for floor in (1e-6, 0.05))
    torch.testing.assert_close(tiny * 1e-4, floored * 0.05)
    same = (score_identity_loss(x0[1:], fake[1:], target[1:], 1.0, floor) for floor in (1e-6, 0.05))
    torch.testing.assert_close(*same)
