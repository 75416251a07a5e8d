# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The losses of a discriminator, against closed forms."""

import math

import pytest
import torch

from disback_diffusers.diffusion.adversarial import (
    discriminator_loss,
    divergence_weights,
    generator_loss,
    gradient_penalty,
)


def logits(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_the_best_logit_is_the_log_of_the_density_ratio():
    """Two places: real samples are at the first in 3 of 4 cases, generated ones in 1 of 5."""
    place = logits(math.log((3 / 4) / (1 / 5)), math.log((1 / 4) / (4 / 5)))
    real, generated = place[[0, 0, 0, 1]], place[[0, 1, 1, 1, 1]]
    (gradient,) = torch.autograd.grad(discriminator_loss(real, generated), place)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_the_losses_are_those_of_the_probabilities():
    real, generated = logits(0.3, -1.2, 4.0), logits(-0.7, 2.5)
    expected = -(real.sigmoid().log().mean() + (1 - generated.sigmoid()).log().mean())
    torch.testing.assert_close(discriminator_loss(real, generated), expected)
    assert discriminator_loss(logits(0.0), logits(0.0)).item() == pytest.approx(2 * math.log(2))
    torch.testing.assert_close(generator_loss(generated), -generated.sigmoid().log().mean())


def test_the_generator_learns_most_where_it_is_found_out():
    """Non-saturating: the derivative by a logit is the probability of being generated."""
    generated = logits(-9.0, 0.0, 9.0)
    (gradient,) = torch.autograd.grad(generator_loss(generated), generated)
    torch.testing.assert_close(gradient, -(1 - generated.detach().sigmoid()) / 3)
    assert generator_loss(logits(-1000.0)).item() == pytest.approx(1000)  # no overflow


def test_the_penalty_is_the_squared_norm_of_the_gradient():
    """Of a linear discriminator at any distance; points of covariance 1 stand for the noise."""
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    noise = 3**0.5 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for distance in (0.01, 0.1, 2.0):
        penalty = gradient_penalty(x @ slope, (x + distance * noise) @ slope, distance)
        torch.testing.assert_close(penalty, slope.square().sum())


# ---------------------------------------------------------------------------------------------------------------------
# The weights of an f-divergence between p = N(mean_p, 1) and q = N(mean_q, 1)

MEAN_P, MEAN_Q = 0.4, -0.2
# D(p || q) = E_q f(p / q); each is 0 for p = q.
DIVERGENCES = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
}


def log_ratio(x, mean_q):
    return ((x - mean_q) ** 2 - (x - MEAN_P) ** 2) / 2


def derivative(f):
    """Of the divergence by the mean of q, by an integral over a fine grid."""
    x, mean_q = torch.linspace(-12, 12, 100_001, dtype=torch.float64), logits(MEAN_Q)
    q = (-((x - mean_q) ** 2) / 2).exp() / (2 * torch.pi) ** 0.5
    divergence = torch.trapezoid(q * f(log_ratio(x, mean_q).exp()), x)
    return torch.autograd.grad(divergence, mean_q)[0].item()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weighted_scores_are_the_derivative_of_the_divergence(name):
    """E_q[w (s_q - s_p)] is the derivative, up to the mean of the weights; samples of q are its quantiles."""
    shares = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    x = MEAN_Q + torch.special.ndtri(shares)
    difference = (MEAN_Q - x) - (MEAN_P - x)  # of the scores
    found = (divergence_weights(log_ratio(x, MEAN_Q), name) * difference).mean().item()
    ratio = log_ratio(x, MEAN_Q).exp()
    factor = {"reverse_kl": 1.0, "forward_kl": 1.0, "jeffreys": 2.0, "js": (ratio / (1 + ratio)).mean().item()}[name]
    assert found * factor == pytest.approx(derivative(DIVERGENCES[name]), rel=1e-4)


def test_closed_forms_of_the_derivatives():
    assert derivative(DIVERGENCES["forward_kl"]) == pytest.approx(MEAN_Q - MEAN_P)
    assert derivative(DIVERGENCES["reverse_kl"]) == pytest.approx(MEAN_Q - MEAN_P)


def test_ratios_that_cannot_be_known_are_limited():
    weights = divergence_weights(torch.tensor([0.0, 4.0, 50.0, -50.0]), "forward_kl")
    assert weights[1] == weights[2] and weights[0] / weights[3] == pytest.approx(math.exp(4), rel=1e-5)
    assert weights.mean().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="divergence 'kl' is unknown; known: reverse_kl, forward_kl, jeffreys, js"):
        divergence_weights(torch.zeros(2), "kl")
