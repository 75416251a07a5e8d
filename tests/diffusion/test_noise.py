# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""NoiseSchedule against diffusers' own schedulers and against Gaussians, where everything is known in closed form."""

import diffusers
import pytest
import torch

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.errors import UsageError


SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLES = {
    "linear": {**SD, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": SD,
    "squaredcos_cap_v2": {**SD, "beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {**SD, "num_train_timesteps": 60, "trained_betas": [0.001 + 0.002 * i for i in range(60)]},
    "zero_snr": {**SD, "rescale_betas_zero_snr": True},
}
TYPES = ("epsilon", "v_prediction", "sample")


def all_schedules():
    schedules = {name: NoiseSchedule.from_scheduler(config) for name, config in TABLES.items()}
    schedules["edm"] = NoiseSchedule.edm(0.002, 80.0)
    schedules["edm_scheduler"] = NoiseSchedule.from_scheduler(diffusers.EDMEulerScheduler(sigma_data=0.7))
    return schedules


def some_times(schedule, n):
    low, high = schedule.time_range
    if schedule.num_train_timesteps is None:
        return torch.logspace(-2, 1.5, n, dtype=torch.float64)
    return torch.linspace(low, high - 1, n).long()


def types_of(schedule):
    return TYPES if schedule.num_train_timesteps else (*TYPES, "edm")


def images(n, seed=0, dtype=torch.float64):
    return torch.randn(n, 2, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# --- agreement with diffusers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "LCMScheduler"])
def test_agrees_with_diffusers(name, table, prediction_type):
    scheduler = getattr(diffusers, name)(**TABLES[table], prediction_type=prediction_type)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    steps = TABLES[table]["num_train_timesteps"]
    assert (schedule.prediction_type, schedule.num_train_timesteps) == (prediction_type, steps)
    t = torch.tensor([0, 1, steps // 3, steps - 2, steps - 1])
    x0, noise = images(5, 1, torch.float32), images(5, 2, torch.float32)
    torch.testing.assert_close(schedule.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), atol=1e-5, rtol=0)
    velocity = scheduler.get_velocity(x0, noise, t)
    torch.testing.assert_close(schedule.velocity(x0, noise, t), velocity, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("table", TABLES)
def test_x0_is_the_one_diffusers_samples_with(table, prediction_type):
    scheduler = diffusers.DDIMScheduler(**TABLES[table], prediction_type=prediction_type, clip_sample=False)
    schedule = NoiseSchedule.from_scheduler(scheduler.config)
    scheduler.set_timesteps(2)
    output, x_t = images(1, 3), images(1, 4)
    for t in (0, schedule.num_train_timesteps // 2, schedule.num_train_timesteps - 2):
        expected = scheduler.step(output, t, x_t).pred_original_sample
        torch.testing.assert_close(schedule.to_x0(output, x_t, t), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_agrees_with_diffusers(name, prediction_type):
    scheduler = getattr(diffusers, name)(sigma_data=0.7, sigma_max=40.0, prediction_type=prediction_type)
    for given in (scheduler, scheduler.config, {"_class_name": name, **scheduler.config}):
        schedule = NoiseSchedule.from_scheduler(given)
        assert schedule.prediction_type == {"epsilon": "edm"}.get(prediction_type, prediction_type)
        assert (schedule.time_range, schedule.num_train_timesteps) == ((0.002, 40.0), None)
        output, x_t = images(1, 3), images(1, 4)
        for sigma in (0.002, 0.3, 1.0, 40.0):
            expected = scheduler.precondition_outputs(x_t, output, sigma)
            torch.testing.assert_close(schedule.to_x0(output, x_t, sigma), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, about diffusers' own tables
def test_every_diffusers_scheduler_is_either_right_or_refused():
    right, refused = [], []
    for name in [name for name in dir(diffusers) if name.endswith("Scheduler")]:
        try:
            scheduler = getattr(diffusers, name)()
        except (ImportError, TypeError):  # needs torchsde, or has required settings: not one defined by betas
            continue
        if not hasattr(scheduler, "config"):
            continue
        try:
            schedule = NoiseSchedule.from_scheduler(scheduler)
        except UsageError:
            refused.append(name)
            continue
        if schedule.num_train_timesteps:
            alphas = schedule.alpha_sigma(torch.arange(1000), torch.zeros(1000))[0]
            torch.testing.assert_close(alphas, scheduler.alphas_cumprod.sqrt(), atol=1e-5, rtol=0)
        right.append(name)
    assert {"DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"} <= set(right)
    assert {"CogVideoXDDIMScheduler", "SCMScheduler", "FlowMatchHeunDiscreteScheduler"} <= set(refused)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_euler_sees_the_same_network_input():
    scheduler = diffusers.EulerDiscreteScheduler(**SD)
    scheduler.set_timesteps(1000)
    x0, noise = images(1, 1, torch.float32), images(1, 2, torch.float32)
    noisy = scheduler.add_noise(x0, noise, torch.tensor([399.0]))
    expected = scheduler.scale_model_input(noisy, torch.tensor(399.0))
    found = NoiseSchedule.from_scheduler(scheduler).add_noise(x0, noise, 399)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_missing_settings_take_the_named_class_defaults():
    x0, noise = images(1), images(1, 1)
    named = NoiseSchedule.from_scheduler({"_class_name": "LCMScheduler"})
    torch.testing.assert_close(
        named.add_noise(x0, noise, 399), all_schedules()["scaled_linear"].add_noise(x0, noise, 399)
    )
    assert NoiseSchedule.from_scheduler({"_class_name": "EDMEulerScheduler"}).time_range == (0.002, 80.0)


# --- conversions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_schedules())
def test_conversions_recover_what_was_put_in(name):
    schedule = all_schedules()[name]
    x0, noise = images(6), images(6, 1)
    t = some_times(schedule, 6)
    x_t = schedule.add_noise(x0, noise, t)
    alpha, sigma = schedule.alpha_sigma(t, x0)
    assert alpha.shape == sigma.shape == (6, 1, 1, 1)
    for kind in types_of(schedule):
        output = schedule.prediction_target(x0, noise, t, kind)
        assert output.dtype == torch.float64
        torch.testing.assert_close(schedule.to_x0(output, x_t, t, kind), x0, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(schedule.to_epsilon(output, x_t, t, kind), noise, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(schedule.to_score(output, x_t, t, kind), -noise / sigma, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", all_schedules())
def test_conversions_agree_on_the_exact_posterior_of_a_gaussian(name):
    schedule = all_schedules()[name]
    generator = torch.Generator().manual_seed(5)
    mean, root = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in [(3,), (3, 3)])
    covariance = root @ root.T
    for t in some_times(schedule, 5):
        x_t = 2 * torch.randn(7, 3, dtype=torch.float64, generator=generator)
        alpha, sigma = (x[0, 0] for x in schedule.alpha_sigma(t, x_t))
        noisy_covariance = alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=torch.float64)
        whitened = torch.linalg.solve(noisy_covariance, (x_t - alpha * mean).T).T
        x0, epsilon = mean + alpha * whitened @ covariance, sigma * whitened
        for kind in types_of(schedule):
            output = schedule.prediction_target(x0, epsilon, t, kind)
            torch.testing.assert_close(schedule.to_score(output, x_t, t, kind), -whitened, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(schedule.to_x0(output, x_t, t, kind), x0, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(schedule.to_epsilon(output, x_t, t, kind), epsilon, atol=1e-6, rtol=1e-6)


def test_zero_terminal_snr():
    schedule = all_schedules()["zero_snr"]
    x0, noise = images(2), images(2, 1)
    t = torch.tensor([999, 400])
    alpha, sigma = schedule.alpha_sigma(999, x0)
    assert (alpha == 0).all() and (sigma == 1).all()
    x_t = schedule.add_noise(x0, noise, t)
    for kind in ("v_prediction", "sample"):
        output = schedule.prediction_target(x0, noise, t, kind)
        torch.testing.assert_close(schedule.to_x0(output, x_t, t, kind), x0)
    for kind in TYPES:
        output = schedule.prediction_target(x0, noise, t, kind)
        torch.testing.assert_close(schedule.to_epsilon(output, x_t, t, kind), noise)
        torch.testing.assert_close(schedule.to_score(output, x_t, t, kind), -noise / schedule.alpha_sigma(t, x0)[1])
    for times in (t, 999):
        with pytest.raises(ValueError, match="999.*zero terminal SNR"):
            schedule.to_x0(noise, x_t, times, "epsilon")
    torch.testing.assert_close(schedule.to_x0(noise[1:], x_t[1:], 400, "epsilon"), x0[1:])


def test_trained_betas_may_end_in_one():
    schedule = NoiseSchedule.from_scheduler({"trained_betas": [0.1, 0.5, 1.0]})
    assert schedule.num_train_timesteps == 3
    with pytest.raises(ValueError, match="timestep 2 "):
        schedule.to_x0(images(1), images(1), 2)


# --- the network's input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_input_of_edm_is_scaled_as_in_diffusers(prediction_type):
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.7, prediction_type=prediction_type)
    schedule, x_t = NoiseSchedule.from_scheduler(scheduler), images(1)
    for sigma in (0.002, 0.3, 1.0, 80.0):
        expected = scheduler.precondition_inputs(x_t, sigma)
        torch.testing.assert_close(schedule.scale_input(x_t, sigma), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["edm", "v_prediction"])
def test_the_scaled_input_has_variance_1(kind):
    """x0 of the standard deviation that the schedule takes it to have: x_t has sigma^2 + sigma_data^2."""
    schedule, t = NoiseSchedule.edm(0.002, 80.0, 0.7, kind), torch.tensor([0.002, 0.7, 3.0, 80.0], dtype=torch.float64)
    std = (t**2 + 0.7**2).sqrt().view(-1, 1, 1, 1)
    scaled = schedule.scale_input(std * torch.ones(4, 2, 3, 3, dtype=torch.float64), t)
    torch.testing.assert_close(scaled, torch.ones_like(scaled), atol=1e-12, rtol=0)
    x_t = images(4, dtype=torch.bfloat16).requires_grad_()
    found = schedule.scale_input(x_t, t)
    assert found.dtype == torch.float32
    found.sum().backward()
    torch.testing.assert_close(x_t.grad, (1 / std).expand_as(x_t).bfloat16(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_any_other_input_is_left_alone(kind):
    x_t = images(2, dtype=torch.bfloat16)
    for table in TABLES.values():
        schedule = NoiseSchedule.from_scheduler({**table, "prediction_type": kind})
        assert schedule.scale_input(x_t, 5) is x_t
    if kind != "v_prediction":  # of the whole denoiser D(x; sigma), or one that predicts the noise of x_t itself
        assert NoiseSchedule.edm(0.002, 80.0, 0.5, kind).scale_input(x_t, 5.0) is x_t


def test_a_sample_starts_from_noise_of_its_time():
    z, t = images(3, 1), torch.tensor([0.002, 1.7, 80.0], dtype=torch.float64)
    for kind in (*TYPES, "edm"):
        schedule = NoiseSchedule.edm(0.002, 80.0, prediction_type=kind)
        torch.testing.assert_close(schedule.pure_noise(z, t), t.view(3, 1, 1, 1) * z)
        torch.testing.assert_close(schedule.pure_noise(z, 80.0), schedule.add_noise(torch.zeros_like(z), z, 80.0))
    for name in TABLES:
        assert all_schedules()[name].pure_noise(z, 50) is z
    schedule = all_schedules()["zero_snr"]  # whose last timestep is pure noise
    torch.testing.assert_close(schedule.pure_noise(z, 999), schedule.add_noise(images(3, 2), z, 999))


# --- precision, devices, times --------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(low):
    schedule = all_schedules()["scaled_linear"]
    x0, noise, t = images(3).to(low), images(3, 1).to(low), torch.tensor([3, 500, 999])
    x_t = schedule.add_noise(x0, noise, t)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t.double(), schedule.add_noise(x0.double(), noise.double(), t), atol=1e-6, rtol=0)
    for convert in (schedule.to_x0, schedule.to_epsilon, schedule.to_score):
        found, exact = convert(noise, x0, t, "v_prediction"), convert(noise.double(), x0.double(), t, "v_prediction")
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_float64_is_kept_and_one_such_input_is_enough():
    schedule = all_schedules()["scaled_linear"]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha, sigma = schedule.alpha_sigma(torch.arange(1000), torch.zeros(1000, 1, dtype=torch.float64))
    torch.testing.assert_close(alpha[:, 0] ** 2, (1 - betas).cumprod(0), atol=0, rtol=1e-12)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-15, rtol=0)
    assert schedule.add_noise(images(1, dtype=torch.float32), images(1), 3).dtype == torch.float64
    sigma = all_schedules()["edm"].alpha_sigma(0.3, images(1))[1]
    assert sigma.item() == 0.3


@pytest.mark.parametrize("name", ["scaled_linear", "edm"])
def test_times_on_an_accelerator_are_never_looked_at(name):
    # A tensor on the meta device has no values: any look at them, which on a GPU is a wait, raises.
    schedule = all_schedules()[name]
    x = images(4, dtype=torch.float32).to("meta")
    for t in (torch.ones(4, dtype=torch.long if name != "edm" else torch.float32, device="meta"), 7, torch.tensor(7)):
        for result in (schedule.add_noise(x, x, t), schedule.velocity(x, x, t), schedule.to_score(x, x, t)):
            assert result.device.type == "meta" and result.shape == x.shape
        assert schedule.to_x0(x, x, t, "epsilon").device.type == "meta"


def test_tables_are_made_once_a_device_and_usable_for_training_after_inference_mode():
    schedule = all_schedules()["scaled_linear"]
    x0 = images(1, dtype=torch.float32)
    with torch.inference_mode():
        schedule.add_noise(x0, x0, 5)
    first = schedule._tables(x0.device, torch.float32)
    assert first is schedule._tables(x0.device, torch.float32)
    x0.requires_grad_()
    schedule.to_x0(x0, x0, 5).square().sum().backward()
    assert x0.grad.isfinite().all()
    assert not first[0].is_inference()


def test_one_time_or_one_a_sample():
    schedule = all_schedules()["scaled_linear"]
    x0, noise = images(3), images(3, 1)
    expected = schedule.add_noise(x0, noise, 7)
    for t in (torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7, 7], dtype=torch.int32)):
        torch.testing.assert_close(schedule.add_noise(x0, noise, t), expected, atol=0, rtol=0)
    one = schedule.add_noise(x0[1:2], noise[1:2], 500)
    torch.testing.assert_close(schedule.add_noise(x0, noise, torch.tensor([7, 500, 9]))[1:2], one, atol=0, rtol=0)
    for t in (torch.tensor([1, 2]), torch.ones(3, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match="one for each of 3"):
            schedule.add_noise(x0, noise, t)


@pytest.mark.parametrize("t", [-1, 1000, torch.tensor([5, 1000, 5]), torch.tensor([5, -1, 5])])
def test_timesteps_out_of_range(t):
    with pytest.raises(ValueError, match=r"0 \.\. 999"):
        all_schedules()["scaled_linear"].add_noise(images(3), images(3), t)


def test_an_unchecked_negative_timestep_does_not_wrap_around(monkeypatch):
    monkeypatch.setattr(NoiseSchedule, "_check_range", lambda self, times: None)  # as on an accelerator
    with pytest.raises(IndexError):
        all_schedules()["scaled_linear"].add_noise(images(1), images(1), -1)


@pytest.mark.parametrize("t", [0.001, 80.1, float("nan"), torch.tensor([1.0, 90.0, 1.0])])
def test_sigmas_out_of_range(t):
    with pytest.raises(ValueError, match=r"0\.002 \.\. 80\.0"):
        all_schedules()["edm"].add_noise(images(3), images(3), t)


def test_rounded_ends_of_the_sigma_range_are_inside_it():
    ends = torch.tensor([0.005, 0.1], dtype=torch.float32).double()
    assert ends[0] < 0.005 and ends[1] > 0.1
    NoiseSchedule.edm(0.005, 0.1).add_noise(images(2), images(2), ends)


def test_fractional_timesteps_are_refused():
    with pytest.raises(ValueError, match="integers"):
        all_schedules()["scaled_linear"].add_noise(images(1), images(1), 399.0)


def test_shapes_must_agree():
    schedule = all_schedules()["scaled_linear"]
    learned_variance = torch.zeros(2, 4, 3, 3)
    for call in (schedule.to_x0, schedule.to_epsilon, schedule.to_score):
        with pytest.raises(ValueError, match=r"x_t has shape \(2, 2, 3, 3\) but model_output has \(2, 4, 3, 3\)"):
            call(learned_variance, images(2), 5)
    for call in (schedule.add_noise, schedule.velocity):
        with pytest.raises(ValueError, match=r"noise has shape \(2, 4, 3, 3\)"):
            call(images(2), learned_variance, 5)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, named",
    [
        (
            {**SD, "beta_schedule": "sigmoid"},
            "beta_schedule 'sigmoid'.*supported: beta_schedule linear, scaled_linear",
        ),
        ({**SD, "prediction_type": "flow_prediction"}, "'flow_prediction'.*supported: epsilon, v_prediction, sample"),
        ({**SD, "prediction_type": "edm"}, "'edm' is not supported"),
        ({**SD, "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({**SD, "timestep_type": "continuous"}, "timestep_type 'continuous'"),
        ({**SD, "snr_shift_scale": 3.0}, "snr_shift_scale"),
        ({"beta_schedule": "linear", "beta_start": 1e-4}, "without beta_start and beta_end"),
        ({"trained_betas": [0.0, 0.1]}, "betas must be in"),
        ({"trained_betas": [0.1, 1.5]}, "betas must be in"),
        ({"trained_betas": [0.1, float("nan")]}, "betas must be in"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 0.0}, "0 < sigma_min"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "other"}, "'other' is not supported"),
        ({}, "beta_schedule"),
        ("scheduler", "got str"),
    ],
)
def test_unsupported_settings_are_named(config, named):
    with pytest.raises(UsageError, match=named):
        NoiseSchedule.from_scheduler(config)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flow_matching_is_refused():
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.HeliosScheduler()):
        with pytest.raises(UsageError, match=f"{type(scheduler).__name__}: .*flow.*supported: beta_schedule linear"):
            NoiseSchedule.from_scheduler(scheduler)


@pytest.mark.parametrize("settings", [(0.0, 80.0), (2.0, 1.0), (0.1, float("inf")), (0.1, 80.0, 0.0)])
def test_edm_settings(settings):
    with pytest.raises(UsageError, match="0 < sigma_min < sigma_max"):
        NoiseSchedule.edm(*settings)


def test_unknown_prediction_type_in_a_call():
    with pytest.raises(ValueError, match="'noise'.*epsilon, v_prediction, sample"):
        all_schedules()["linear"].to_x0(images(1), images(1), 1, "noise")
