# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The losses against Gaussians: posterior means and the KL divergence are known, expectations are exact.

A set of points with the mean and the covariance of a standard normal distribution integrates any quadratic function
exactly, so nothing here is sampled.
"""

import pytest
import torch
from diffusers import EDMEulerScheduler

from disback_diffusers.diffusion.losses import (
    adversarial_score_loss,
    denoising_loss,
    distribution_matching_gradient,
    surrogate_loss,
)
from disback_diffusers.diffusion.noise import NoiseSchedule


SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = {
    "vp": (NoiseSchedule.from_scheduler(SD), 399),
    "zero_snr": (NoiseSchedule.from_scheduler({**SD, "rescale_betas_zero_snr": True}), 700),
    "edm": (NoiseSchedule.edm(0.002, 80.0), 1.7),
    "edm_scheduler": (NoiseSchedule.from_scheduler(EDMEulerScheduler()), 0.4),
}
CASES = [(name, kind) for name in SCHEDULES for kind in ("epsilon", "v_prediction", "sample")]
CASES += [("edm", "edm"), ("edm_scheduler", "edm")]
D = 3


def random(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def points(dimension):
    """2 * dimension equally weighted points with mean 0 and covariance 1."""
    axes = dimension**0.5 * torch.eye(dimension, dtype=torch.float64)
    return torch.cat([axes, -axes])


class Gaussian:
    """x0 = mean + root z, diffused to x_t = alpha x0 + sigma noise."""

    def __init__(self, mean, root):
        self.mean, self.root = mean, root

    def noisy(self, alpha, sigma):
        return alpha * self.mean, alpha**2 * self.root @ self.root.T + sigma**2 * torch.eye(D, dtype=torch.float64)

    def posterior_mean(self, x_t, alpha, sigma):
        mean, covariance = self.noisy(alpha, sigma)
        return self.mean + alpha * torch.linalg.solve(covariance, (x_t - mean).T).T @ self.root @ self.root.T


def student_and_target():
    return Gaussian(random(D, seed=1), random(D, D, seed=2)), Gaussian(random(D, seed=3), random(D, D, seed=4))


def kl_divergence(student, target, alpha, sigma):
    (mean, covariance), (other_mean, other) = student.noisy(alpha, sigma), target.noisy(alpha, sigma)
    shift = other_mean - mean
    trace = torch.linalg.solve(other, covariance).trace() + shift @ torch.linalg.solve(other, shift)
    return 0.5 * (trace - D + torch.logdet(other) - torch.logdet(covariance))


# --- denoising loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind", CASES)
def test_denoising_loss_is_smallest_at_the_exact_posterior_mean(name, kind):
    schedule, t = SCHEDULES[name]
    data = student_and_target()[0]
    z, noise = points(2 * D).split(D, dim=1)
    x0 = data.mean + z @ data.root.T
    x_t = schedule.add_noise(x0, noise, t)
    alpha, sigma = (x[0, 0] for x in schedule.alpha_sigma(t, x_t))
    x0_mean = data.posterior_mean(x_t, alpha, sigma)
    best = schedule.prediction_target(x0_mean, (x_t - alpha * x0_mean) / sigma, t, kind)

    # Any affine network: the best prediction plus A x_t + b. The loss is exact, so its gradient at A = b = 0 is 0.
    slope, offset = torch.zeros(D, D, dtype=torch.float64).requires_grad_(), best.new_zeros(D).requires_grad_()
    loss = denoising_loss(best + x_t @ slope + offset, x0, noise, t, schedule, kind)
    for gradient in torch.autograd.grad(loss, (slope, offset)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
    for seed in range(3):
        away = best + x_t @ random(D, D, seed=seed) * 0.01 + 0.01
        assert denoising_loss(away, x0, noise, t, schedule, kind) > loss * (1 + 1e-6)

    # The smallest loss is the posterior variance, in the units of the parameterisation.
    prior, likelihood = torch.linalg.inv(data.root @ data.root.T), alpha**2 / sigma**2
    variance = torch.linalg.inv(prior + likelihood * torch.eye(D, dtype=torch.float64)).trace() / D
    unit = schedule.prediction_target(torch.ones_like(x_t), -alpha / sigma * torch.ones_like(x_t), t, kind)[0, 0]
    torch.testing.assert_close(loss, variance * unit**2)


def test_denoising_loss_uses_the_schedules_own_parameterisation():
    x0, noise, output = (random(2, 3, 4, seed=seed) for seed in range(3))
    for kind in ("epsilon", "v_prediction", "sample"):
        schedule = NoiseSchedule.from_scheduler({**SD, "prediction_type": kind})
        target = {"epsilon": noise, "sample": x0, "v_prediction": schedule.velocity(x0, noise, 50)}[kind]
        expected = (output - target).square()
        torch.testing.assert_close(denoising_loss(output, x0, noise, 50, schedule), expected.mean())
        per_sample = denoising_loss(output, x0, noise, 50, schedule, reduction="none")
        torch.testing.assert_close(per_sample, expected.mean((1, 2)))


def test_denoising_loss_trains_the_network_only():
    output, x0, noise = (random(2, 3, seed=seed).requires_grad_() for seed in range(3))
    denoising_loss(output, x0, noise, 50, SCHEDULES["vp"][0], "v_prediction").backward()
    assert output.grad is not None and x0.grad is None and noise.grad is None


def test_denoising_loss_reduces_in_float32():
    output, noise = random(4, 999, seed=0).bfloat16(), random(4, 999, seed=1).bfloat16()
    loss = denoising_loss(output, noise, noise, 50, SCHEDULES["vp"][0], "epsilon")
    assert loss.dtype == torch.float32
    expected = (output.double() - noise.double()).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, -0.5, -0.75])
def test_adversarial_score_is_beyond_that_of_the_samples(gamma):
    """The gradient is 0 at s + gamma / (1 + gamma) (s_target - s), and nowhere else: the loss is convex."""
    (schedule, t), (student, target) = SCHEDULES["vp"], student_and_target()
    z, noise = points(2 * D).split(D, dim=1)
    x0 = student.mean + z @ student.root.T
    x_t = schedule.add_noise(x0, noise, t)
    alpha, sigma = (x[0, 0] for x in schedule.alpha_sigma(t, x_t))
    own, away_from = ((x_t - alpha * data.posterior_mean(x_t, alpha, sigma)) / sigma for data in (student, target))
    best = own + gamma / (1 + gamma) * (away_from - own)
    slope, offset = torch.zeros(D, D, dtype=torch.float64).requires_grad_(), best.new_zeros(D).requires_grad_()
    output = best + x_t @ slope + offset
    loss, denoising, distance = adversarial_score_loss(output, away_from, x0, noise, t, schedule, gamma)
    for gradient in torch.autograd.grad(loss, (slope, offset), retain_graph=True):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
    (curvature,) = torch.autograd.grad(torch.autograd.grad(loss, offset, create_graph=True)[0].sum(), offset)
    torch.testing.assert_close(curvature, torch.full_like(curvature, 2 * (1 + gamma) / D))
    torch.testing.assert_close(denoising, denoising_loss(output, x0, noise, t, schedule))
    torch.testing.assert_close(distance, (own - away_from).square().mean() / (1 + gamma) ** 2)


def test_denoising_loss_refusals():
    x, schedule = torch.zeros(2, 3), SCHEDULES["vp"][0]
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 3\) but model_output has \(2, 6\)"):
        denoising_loss(torch.zeros(2, 6), x, x, 5, schedule)
    with pytest.raises(ValueError, match=r"noise has shape \(1, 3\)"):
        denoising_loss(x, x, torch.zeros(1, 3), 5, schedule)
    with pytest.raises(ValueError, match="reduction 'sum' is unknown"):
        denoising_loss(x, x, x, 5, schedule, reduction="sum")
    with pytest.raises(ValueError, match=r"0 \.\. 999"):
        denoising_loss(x, x, x, 1000, schedule)


# --- distribution-matching gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["uniform", "vsd"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_gradient_is_the_gradient_of_the_kl_divergence(name, weighting):
    schedule, t = SCHEDULES[name]
    student, target = student_and_target()
    alpha, sigma = (x[0, 0] for x in schedule.alpha_sigma(t, torch.zeros(1, D, dtype=torch.float64)))
    student.mean.requires_grad_(), student.root.requires_grad_()
    wanted = torch.autograd.grad(kl_divergence(student, target, alpha, sigma), (student.mean, student.root))

    z, noise = points(2 * D).split(D, dim=1)
    x0 = student.mean + z @ student.root.T
    x_t = schedule.add_noise(x0, noise, t)
    estimates = [p.posterior_mean(x_t, alpha, sigma) for p in (student, target)]
    gradient = distribution_matching_gradient(x0, *estimates, weighting, alpha=alpha, sigma=sigma)
    assert not gradient.requires_grad
    # Averaged over x0's distribution, through x0 = mean + root z. The mean over samples is numel / D long.
    found = torch.autograd.grad(D * surrogate_loss(x0, gradient), (student.mean, student.root))
    weight = {"uniform": 1.0, "vsd": sigma**2}[weighting]
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, weight * other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_uniform_gradient_is_alpha_times_the_difference_of_scores(name):
    schedule, t = SCHEDULES[name]
    x_t, fake, target = (random(4, D, seed=seed) for seed in range(3))
    alpha, sigma = schedule.alpha_sigma(t, x_t)
    scores = [schedule.to_score(estimate, x_t, t, "sample") for estimate in (fake, target)]
    found = distribution_matching_gradient(x_t, fake, target, "uniform", alpha=alpha, sigma=sigma)
    torch.testing.assert_close(found, alpha * (scores[0] - scores[1]))


def test_weights():
    x0, fake, target = (random(3, 2, 4, 4, seed=seed) for seed in range(3))
    alpha, sigma = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.7, 0.9])
    a, s, difference = alpha[:, None, None, None], sigma[:, None, None, None], fake - target
    wanted = {
        "dmd": difference / (x0 - target).abs().mean((1, 2, 3), keepdim=True),
        "vsd": a**2 * difference,
        "uniform": (a / s) ** 2 * difference,
    }
    for weighting, expected in wanted.items():
        for given in ((alpha, sigma), (a, s)):
            found = distribution_matching_gradient(x0, fake, target, weighting, *given)
            torch.testing.assert_close(found, expected)
        assert (distribution_matching_gradient(x0, fake, fake, weighting, alpha, sigma) == 0).all()
    torch.testing.assert_close(distribution_matching_gradient(x0, fake, target), wanted["dmd"])
    torch.testing.assert_close(distribution_matching_gradient(x0, fake, target, "vsd", 0.5), 0.25 * difference)


def test_one_alpha_a_sample_never_meets_the_width():
    x0, fake, target = (random(4, 2, 4, 4, seed=seed) for seed in range(3))
    alpha = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    found = distribution_matching_gradient(x0, fake, target, "vsd", alpha)
    torch.testing.assert_close(found[3], 16 * (fake - target)[3])
    with pytest.raises(ValueError, match="alpha must be one number or one for each of 4"):
        distribution_matching_gradient(x0, fake, target, "vsd", alpha[:2])


def test_dmd_denominator_is_guarded_and_hides_nothing():
    x0, fake = random(3, 5, seed=0), random(3, 5, seed=1)
    target = x0.clone()
    found = distribution_matching_gradient(x0, fake, target)
    assert found.isfinite().all()
    assert (distribution_matching_gradient(x0, x0, target) == 0).all()
    for broken in range(3):
        inputs = [x0.clone(), fake.clone(), target.clone()]
        inputs[broken][1, 2] = float("nan")
        found = distribution_matching_gradient(*inputs)
        assert found[1].isnan().any() and found[[0, 2]].isfinite().all()


def test_gradient_is_detached_and_float32():
    x0, fake, target = (random(2, 3, seed=seed).bfloat16().requires_grad_() for seed in range(3))
    found = distribution_matching_gradient(x0, fake, target)
    assert not found.requires_grad and found.dtype == torch.float32
    exact = distribution_matching_gradient(x0.double(), fake.double(), target.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


def test_gradient_refusals():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="weighting 'kl' is unknown; known: dmd, vsd, uniform"):
        distribution_matching_gradient(x, x, x, "kl")
    with pytest.raises(ValueError, match="'vsd' needs alpha; missing: alpha"):
        distribution_matching_gradient(x, x, x, "vsd", sigma=1.0)
    with pytest.raises(ValueError, match="'uniform' needs alpha and sigma; missing: sigma"):
        distribution_matching_gradient(x, x, x, "uniform", alpha=1.0)
    with pytest.raises(ValueError, match=r"x0_target has shape \(1, 3\) but x0 has \(2, 3\)"):
        distribution_matching_gradient(x, x, x[:1])


# --- surrogate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_surrogate_gradient_is_exact(dtype, tolerance):
    x0 = (100 * random(2, 3, 5, seed=0, dtype=dtype)).requires_grad_()
    gradient = (1e-6 * random(2, 3, 5, seed=1, dtype=dtype)).requires_grad_()  # x0 - gradient would round it away
    loss = surrogate_loss(x0, gradient)
    loss.backward()
    torch.testing.assert_close(x0.grad, gradient.detach() / 30, rtol=tolerance, atol=0)
    torch.testing.assert_close(loss.detach(), 0.5 * gradient.detach().square().mean())
    assert gradient.grad is None and loss.dtype == dtype


def test_surrogate_of_bfloat16_is_float32():
    x0 = random(2, 300, seed=0).bfloat16().requires_grad_()
    gradient = random(2, 300, seed=1, dtype=torch.float32)
    loss = surrogate_loss(x0, gradient)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(x0.grad, (gradient / 600).bfloat16(), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match=r"gradient has shape \(2, 1\) but x0 has \(2, 300\)"):
        surrogate_loss(x0, gradient[:, :1])
