# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The times that are trained at: their range, their distribution, and where evenly spread ones are."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.diffusion.times import (
    LogUniformTimes,
    UniformTimes,
    karras_levels,
    times_at,
    times_of_noise,
    training_times,
)


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIGMAS = LogUniformTimes(0.002, 80.0)
BOTH = [UniformTimes(20, 979), SIGMAS]
N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps, expected", [(1000, (20, 979)), (60, (1, 58)), (100, (2, 97))])
def test_two_hundredths_of_the_timesteps_are_left_out_at_either_end(steps, expected):
    schedule = NoiseSchedule.from_scheduler({**SD, "num_train_timesteps": steps})
    assert training_times(schedule) == UniformTimes(*expected)


def test_an_edm_schedule_is_trained_at_all_levels():
    assert training_times(NoiseSchedule.edm(0.002, 80.0), "log-uniform") == SIGMAS


def test_karras_levels_are_those_of_edms_sampler():
    """rho = 7: the seventh root of the levels is spaced evenly."""
    levels = karras_levels(0.002, 80.0, 18)
    assert len(levels) == 19 and levels[-1] == 0 and levels[0].item() == pytest.approx(80)
    assert levels[17].item() == pytest.approx(0.002)
    roots = levels[:-1] ** (1 / 7)
    torch.testing.assert_close(roots[:-1] - roots[1:], (roots[0] - roots[1]).expand(17))


def test_noise_levels_of_training():
    schedule = NoiseSchedule.edm(0.002, 80.0)
    karras = training_times(schedule, "karras")
    roots = karras.sample(N, generator()) ** (1 / 7)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    share = ((roots - low) / (high - low)).sort().values.double()
    assert 0.0199 < share[0] < share[-1] < 0.9801
    assert (share - (0.02 + 0.96 * (torch.arange(N) + 0.5) / N)).abs().max() < 1.95 / N**0.5
    normal = training_times(schedule, "log-normal").sample(N, generator()).log()
    assert normal.mean().item() == pytest.approx(-1.2, abs=0.05) and normal.std().item() == pytest.approx(
        1.2, abs=0.05
    )
    assert normal.exp().min() >= 0.002 and normal.exp().max() <= 80


def test_noise_levels_beyond_the_schedule_are_never_drawn():
    times = training_times(NoiseSchedule.edm(0.1, 2.0), "log-normal").sample(N, generator())
    assert (times.min(), times.max()) == (torch.tensor(0.1), 2.0) and 0.05 < (times == 2.0).float().mean() < 0.07


def test_whole_timesteps_are_all_as_likely():
    t = UniformTimes(5, 8).sample(N, generator())
    assert t.dtype == torch.long and t.shape == (N,)
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [5, 6, 7, 8], "both ends are among them"
    assert (counts / N - 0.25).abs().max() < 4 * (0.25 * 0.75 / N) ** 0.5


def test_the_logarithm_of_the_noise_levels_is_uniform():
    t = SIGMAS.sample(N, generator())
    assert t.shape == (N,) and (t >= 0.002 * (1 - 1e-5)).all() and (t <= 80 * (1 + 1e-5)).all()
    low, high = math.log(0.002), math.log(80)
    share = ((t.double().log() - low) / (high - low)).sort().values  # uniform in [0, 1]
    expected = (torch.arange(N) + 0.5) / N
    assert (share - expected).abs().max() < 1.95 / N**0.5  # Kolmogorov: exceeded once in a thousand


@pytest.mark.parametrize("times", BOTH, ids=["uniform", "log-uniform"])
def test_random_times_come_from_the_generator_alone(times):
    torch.manual_seed(1)
    first = times.sample(50, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, times.sample(50, generator(3)))
    assert not torch.equal(first, times.sample(50, generator(4)))


@pytest.mark.parametrize("times", BOTH, ids=["uniform", "log-uniform"])
def test_a_schedule_takes_them(times):
    schedule = NoiseSchedule.edm(0.002, 80.0) if times is SIGMAS else NoiseSchedule.from_scheduler(SD)
    x = torch.ones(1000, 2)
    for t in (times.sample(1000, generator()), times.spread(1000)):
        assert schedule.add_noise(x, x, t).isfinite().all()


def test_spread_timesteps_are_the_middles_of_equal_parts():
    assert UniformTimes(20, 980).spread(4).tolist() == [140, 380, 620, 860]
    assert UniformTimes(20, 980).spread(1).tolist() == [500]
    t = UniformTimes(20, 979).spread(64)
    assert t.dtype == torch.long and (t.diff() - 959 / 64).abs().max() <= 1
    assert t.double().mean() == pytest.approx((20 + 979) / 2, abs=0.5)  # each is rounded down


def test_spread_noise_levels_are_a_geometric_series():
    t = SIGMAS.spread(5).double()
    ratio = (80 / 0.002) ** (1 / 5)
    torch.testing.assert_close(t, 0.002 * ratio ** (torch.arange(5, dtype=torch.float64) + 0.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(t * t.flip(0), torch.full_like(t, 0.002 * 80), rtol=1e-5, atol=0)


def test_times_at_shares_of_a_schedule():
    edm = NoiseSchedule.edm(0.002, 80.0)
    levels = times_at(edm, (0.0, 0.5, 1.0))
    assert levels[0] < 0.004 and 2 < levels[1] < 3 and 70 < levels[2] < 80  # the middle of the sampler's steps
    timesteps = times_at(NoiseSchedule.from_scheduler(DDPMScheduler().config), (0.2, 0.8))
    assert timesteps.tolist() == [200, 799]


def test_times_of_a_noise_ratio():
    """The nearest timesteps; an EDM schedule has the level itself. Beyond the schedule, its last time."""
    levels = torch.tensor([0.7, 5.0, 40.0, 1e6])
    torch.testing.assert_close(times_of_noise(NoiseSchedule.edm(0.002, 80.0), levels), torch.tensor([0.7, 5, 40, 80]))
    schedule = NoiseSchedule.from_scheduler(DDPMScheduler().config)
    times = times_of_noise(schedule, levels)
    products = DDPMScheduler().alphas_cumprod
    around = [((1 - products[t]) / products[t]).sqrt() for t in (times[:3] - 1, times[:3] + 1)]
    assert (around[0] < levels[:3]).all() and (levels[:3] < around[1]).all()
    assert times[3] == 999
    zero_snr = NoiseSchedule.from_scheduler(DDPMScheduler(rescale_betas_zero_snr=True).config)
    assert times_of_noise(zero_snr, levels[:3]).max() < 999  # where the ratio is infinite


def test_times_up_to_a_last_one():
    times, share = UniformTimes(20, 980), torch.tensor([0.0, 0.5, 0.999999, 0.999999, 0.7])
    found = times.up_to(torch.tensor([399, 399, 399, 999, 5]), share)
    assert found.tolist() == [20, 210, 399, 980, 20] and found.dtype == torch.long
    many = times.up_to(torch.full((N,), 23), torch.rand(N, generator=generator()))
    assert many.unique().tolist() == [20, 21, 22, 23]
