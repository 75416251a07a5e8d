# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The stable target field against mixtures of Gaussians, whose score is known."""

import math

import pytest
import torch

from disback_diffusers import NoiseSchedule, mismatch_degree, stable_target_score
from disback_diffusers.diffusion.target_field import image_times, squared_mismatch
from disback_diffusers.errors import UsageError


SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDPM = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]], dtype=torch.float64)
WIDTH = 0.4


def random(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def mixture_score(x, centres, variance):
    """By autograd, of equal Gaussians around the centres."""
    x = x.clone().requires_grad_()
    distances = (x.reshape(len(x), 1, -1) - centres.reshape(1, len(centres), -1)).square().sum(-1)
    log = torch.logsumexp(-distances / (2 * variance), dim=1)
    return torch.autograd.grad(log.sum(), x)[0]


def samples(n, seed):
    which = torch.randint(len(CENTRES), (n,), generator=torch.Generator().manual_seed(seed))
    return CENTRES[which] + WIDTH * random(n, 2, seed=seed + 1)


@pytest.mark.parametrize("alpha, sigma", [(1.0, 2.0), (0.3, 0.9), (0.999, 0.05), (0.0, 1.0)])
def test_it_is_the_score_of_the_noised_points(alpha, sigma):
    points, x = random(50, 3, 2, 2, seed=1), random(8, 3, 2, 2, seed=2)
    expected = mixture_score(x, alpha * points, sigma**2)
    torch.testing.assert_close(stable_target_score(x, sigma, points, alpha), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("schedule, t", [(NoiseSchedule.from_scheduler(SD), [10, 500, 990]),
                                         (NoiseSchedule.edm(0.002, 80.0), [0.1, 2.0, 70.0])])  # fmt: skip
def test_each_sample_has_a_time_of_its_own(schedule, t):
    points, x, t = random(20, 4, 2, 2, seed=1), random(3, 4, 2, 2, seed=2), torch.tensor(t)
    alpha, sigma = schedule.alpha_sigma(t, x)
    rows = [stable_target_score(x[i : i + 1], sigma[i : i + 1], points, alpha[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(stable_target_score(x, sigma, points, alpha), torch.cat(rows))


def test_at_low_noise_and_far_away_the_nearest_sample_is_left():
    points = 100 * random(30, 6, seed=1, dtype=torch.float32)
    x = points + 1e-3 * random(30, 6, seed=2)
    expected = (points.double() - x) / 1e-3**2
    torch.testing.assert_close(stable_target_score(x, 1e-3, points), expected, rtol=1e-6, atol=1e-3)


def test_the_error_falls_as_the_root_of_the_number_of_samples():
    alpha, sigma, x = 0.8, 0.6, 1.5 * random(200, 2, seed=5)
    exact = mixture_score(x, alpha * CENTRES, (alpha * WIDTH) ** 2 + sigma**2)

    def error(m):
        scores = torch.stack([stable_target_score(x, sigma, samples(m, seed), alpha) for seed in range(9)])
        return (scores - exact).square().mean().sqrt().item()

    few, more, many = error(100), error(1_000), error(10_000)
    assert few / more == pytest.approx(10**0.5, rel=0.25) and more / many == pytest.approx(10**0.5, rel=0.25)


@pytest.mark.parametrize("schedule, t", [(NoiseSchedule.from_scheduler(SD), 399), (NoiseSchedule.edm(0.002, 80), 1.0)])
def test_the_mismatch_degree_is_the_distance_of_the_scores(schedule, t):
    points, x = samples(40, seed=3), random(10, 2, seed=4)
    alpha, sigma = (value.flatten()[0] for value in schedule.alpha_sigma(t, x))
    exact = mixture_score(x, alpha * points, sigma**2)
    torch.testing.assert_close(mismatch_degree(exact, x, t, points, schedule), torch.zeros(10).double())
    shifted = exact + torch.tensor([3.0, -4.0])
    torch.testing.assert_close(mismatch_degree(shifted, x, t, points, schedule), torch.full((10,), 5.0).double())
    farther = mismatch_degree(exact, x, t, points + 3, schedule)
    assert farther.mean() > 0.5  # the score of one distribution on another


@pytest.mark.parametrize(
    "schedule, t", [(NoiseSchedule.from_scheduler(DDPM), 620), (NoiseSchedule.edm(0.002, 80), 7.0)]
)
def test_the_squared_mismatch_is_free_of_the_error_of_few_samples(schedule, t):
    """1,024 samples of Gaussians in 192 dimensions, in closed form."""
    x0, noise = random(2, 1024, 3, 8, 8, seed=7)
    alpha, sigma = (value.flatten()[0].item() for value in schedule.alpha_sigma(t, x0))
    assumed = 0.25 * alpha**2 + sigma**2

    def measured_and_exact(std, shift=0.0):
        """Of the score of N(0, 0.5^2) on N(shift, std^2)."""
        samples = std * x0 + shift
        x_t = alpha * samples + sigma * noise
        squared = squared_mismatch(-x_t / assumed, x_t, t, samples, schedule).mean().item()
        variance = alpha**2 * std**2 + sigma**2
        exact = 192 * ((1 / variance - 1 / assumed) ** 2 * variance + (alpha * shift / assumed) ** 2)
        return squared, exact

    narrow, exact = measured_and_exact(std=0.02)
    assert narrow == pytest.approx(exact, rel=0.1)
    for std in (0.5, 0.4, 0.25):
        measured, of_std = measured_and_exact(std)
        assert measured == pytest.approx(of_std, abs=0.1 * exact)
    measured, of_shift = measured_and_exact(std=0.5, shift=0.1)
    assert measured == pytest.approx(of_shift, rel=0.1)


def test_each_true_score_is_estimated_twice_without_the_sample_that_was_noised():
    x0, noise, score = random(3, 6, 2, seed=8)
    x_t, schedule = x0 + 0.8 * noise, NoiseSchedule.edm(0.002, 80.0)
    expected = []
    for i in range(6):
        halves = [[j for j in range(parity, 6, 2) if j != i] for parity in (0, 1)]
        one, other = (score[i] - mixture_score(x_t[i : i + 1], x0[half], 0.8**2)[0] for half in halves)
        expected.append(one @ other)
    torch.testing.assert_close(squared_mismatch(score, x_t, 0.8, x0, schedule), torch.stack(expected))


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 64, 64), (1, 32, 32)])
def test_noise_for_the_squared_mismatch_grows_with_the_number_of_pixels(shape):
    times = image_times(NoiseSchedule.edm(0.002, 80.0), shape)
    even = 0.5 * math.prod(shape) ** 0.5
    torch.testing.assert_close(times, (even * torch.tensor([0.7, 1.0, 1.4, 2.0])).clamp(max=80.0))


def test_images_too_large_for_the_noise():
    with pytest.raises(UsageError, match="too little .* 256x256"):
        image_times(NoiseSchedule.edm(0.002, 80.0), (3, 256, 256))
    with pytest.raises(UsageError, match="too little .* 64x64"):  # at the end, its noise is 15 times the image
        image_times(NoiseSchedule.from_scheduler(SD), (3, 64, 64))
    assert len(image_times(NoiseSchedule.from_scheduler(DDPM), (3, 256, 256))) == 4  # and here 157 times


@pytest.mark.parametrize("n", [3, 5])
def test_the_squared_mismatch_needs_the_samples_that_were_noised(n):
    with pytest.raises(ValueError, match="one shape"):
        squared_mismatch(torch.zeros(n, 2), torch.zeros(n, 2), 9.0, torch.zeros(3, 2), NoiseSchedule.edm(0.002, 80))


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"reference": torch.zeros(0, 2)}, "m > 0"),
        ({"reference": torch.zeros(4, 3)}, "reference"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": torch.ones(3)}, "sigma"),
        ({"alpha": torch.ones(3)}, "alpha"),
    ],
)
def test_wrong_input(change, expected):
    good = {"x_t": torch.zeros(5, 2), "sigma": 1.0, "reference": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=expected):
        stable_target_score(**{**good, **change})


def test_scores_of_another_shape():
    schedule = NoiseSchedule.edm(0.002, 80)
    with pytest.raises(ValueError, match="score has shape"):
        mismatch_degree(torch.zeros(5, 1), torch.zeros(5, 2), 1.0, torch.zeros(4, 2), schedule)
