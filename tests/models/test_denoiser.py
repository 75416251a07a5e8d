# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The door to a network, with networks whose answer is known: the optimal ones for Gaussian data of variance S2."""

import pytest
import torch
from tiny_models import TEXT_SIZE
from tiny_roles import build

from disback_diffusers import NoiseSchedule
from disback_diffusers.diffusion.consistency import boundary_scalings
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import ConsistencyDenoiser, Denoiser
from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.models.families.base import Family
from disback_diffusers.models.samplers import OneStep
from disback_diffusers.models.student import Student


S2 = 0.7
VP = NoiseSchedule.from_scheduler({"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012})
EDM = NoiseSchedule.edm(0.1, 10.0, sigma_data=0.5, prediction_type="edm")
TIMES = {VP: torch.tensor([20, 399, 900]), EDM: torch.tensor([0.2, 1.0, 8.0], dtype=torch.float64)}


class Optimal(torch.nn.Module):
    """E[x0 | x_t] of N(0, S2) in the parameterisation of a schedule, in float64."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.zero = schedule, torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, t):
        assert x.dtype == torch.float64
        alpha, sigma = self.schedule.alpha_sigma(t, x)
        if self.schedule is VP:  # the noise in x
            return sigma / (alpha**2 * S2 + sigma**2) * x + self.zero
        x_t = x * (sigma**2 + 0.25).sqrt()  # the raw network gets c_in x_t, c_in = 1 / sqrt(sigma^2 + 0.5^2)
        skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        return (S2 / (S2 + sigma**2) * x_t - skip * x_t) / out + self.zero


class Plain(Family):
    """Of a network that is called with x_t and t alone."""

    def __init__(self):
        pass

    def call(self, network, x_t, t, conditions):
        return network(x_t, t)


@pytest.fixture(params=[VP, EDM], ids=["vp", "edm"])
def schedule(request):
    return request.param


def points(n=3):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_x0_and_score_are_the_closed_forms(schedule):
    denoiser, t, x_t = Denoiser(Plain(), Optimal(schedule), schedule), TIMES[schedule], points()
    alpha, sigma = schedule.alpha_sigma(t, x_t)
    variance = alpha**2 * S2 + sigma**2
    conditions = Conditions(rows=3)
    torch.testing.assert_close(denoiser.x0(x_t, t, conditions), alpha * S2 / variance * x_t)
    torch.testing.assert_close(denoiser.score(x_t, t, conditions), -x_t / variance)


def test_one_step_starts_from_z_or_from_noise_of_the_largest_level(schedule):
    t, z = TIMES[schedule][-1].item(), points()
    denoiser = Denoiser(Plain(), Optimal(schedule), schedule)
    alpha, sigma = schedule.alpha_sigma(t, z)
    x_t = z if schedule is VP else sigma * z
    expected = alpha * S2 / (alpha**2 * S2 + sigma**2) * x_t
    torch.testing.assert_close(OneStep(t).sample(denoiser, z, Conditions(rows=3)), expected)


def test_a_consistency_denoiser_has_the_boundary_conditions():
    t, x_t, conditions = torch.tensor([0, 1, 900]), points(), Conditions(rows=3)
    plain, consistent = (cls(Plain(), Optimal(VP), VP) for cls in (Denoiser, ConsistencyDenoiser))
    skip, out = (value.view(-1, 1) for value in boundary_scalings(t.float()))
    found = consistent.x0(x_t, t, conditions)
    torch.testing.assert_close(found, skip * x_t + out * plain.x0(x_t, t, conditions), check_dtype=False)
    torch.testing.assert_close(found[0], x_t[0])  # at t = 0 a sample is left as it is


# ---------------------------------------------------------------------------------------------------------------------


def inputs():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 7, TEXT_SIZE, generator=generator)
    return torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([399, 20]), Conditions({"text": text})


@pytest.fixture
def family():
    family = StableDiffusion.__new__(StableDiffusion)  # its call alone is used
    family.schedule = VP
    return family


def test_each_role_is_run_with_its_own_adapter_and_leaves_the_one_before_on(family):
    roles, outputs = build("fake", "target"), {}
    roles.use("fake")
    for role in (None, "fake", "target"):
        outputs[role] = Denoiser(family, roles.network, VP, roles, role).output(*inputs())
        assert roles.active == ("fake",)
    x_t, t, conditions = inputs()
    for role, output in outputs.items():
        with roles(*([role] if role else [])):
            torch.testing.assert_close(output, roles.network(x_t, t, conditions.tensors["text"]).sample)
    assert not torch.equal(outputs[None], outputs["fake"]) and not torch.equal(outputs["fake"], outputs["target"])


def test_precision_is_that_of_the_weights_or_of_autocast(family):
    roles = build("fake", dtype=torch.bfloat16)
    half = Denoiser(family, roles.network, VP, roles, "fake", autocast=torch.bfloat16)
    x_t, t, conditions = inputs()
    conditions = conditions.map(lambda value: value.bfloat16())
    assert half.output(x_t, t, conditions).dtype == torch.bfloat16
    assert half.x0(x_t, t, conditions).dtype == half.score(x_t, t, conditions).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    seen = []
    whole = Denoiser(family, build("fake").network, VP, autocast=torch.bfloat16)
    whole.network.conv_in.register_forward_hook(
        lambda module, args, output: seen.append((args[0].dtype, output.dtype))
    )
    whole.output(*inputs())
    assert seen == [(torch.float32, torch.bfloat16)]  # float32 weights, computed in bfloat16


@pytest.mark.parametrize("role", [None, "student"])
def test_weights_go_out_and_in(family, role):
    roles = build("student")
    denoiser = Denoiser(family, roles.network, VP, roles, role) if role else Denoiser(family, build().network, VP)
    state = {key: value.clone() for key, value in denoiser.state_dict().items()}
    before = denoiser.output(*inputs())
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1)
    assert not torch.equal(denoiser.output(*inputs()), before)
    denoiser.load_state_dict(state, source="the test")
    torch.testing.assert_close(denoiser.output(*inputs()), before)


def test_a_student_is_averaged_within_the_block_only(family):
    roles = build("student")
    student = Student(Denoiser(family, roles.network, VP, roles, "student"), OneStep(399), ema_decay=0.5)
    first = [parameter.detach().clone() for parameter in student.parameters()]
    for _ in range(3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        student.update_ema()
    last = [parameter.detach().clone() for parameter in student.parameters()]
    with student.averaged():
        for a, now, b in zip(first, student.parameters(), last):
            assert ((a < now) & (now < b)).all()
    assert all(torch.equal(a, b) for a, b in zip(last, student.parameters()))
