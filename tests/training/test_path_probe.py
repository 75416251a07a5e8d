# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What is measured along the path, and how the student started."""

import json

import pytest
import torch
from tiny_models import save_sd

from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.samplers import OneStep
from disback_diffusers.models.student import Student
from disback_diffusers.training.path_probe import PathProbe


def test_the_error_is_that_of_the_noise_whatever_the_teacher_predicts(make_context, tmp_path):
    """An error of v is alpha times as large an error of the noise."""
    context = make_context(pretrained_teacher_model=str(save_sd(tmp_path / "sd", prediction_type="v_prediction")))
    probe, expected = PathProbe(*context.parts), []
    measured = probe(context.networks.teacher)
    batch, times, samples = probe._fixed
    for t in times:
        alpha, sigma = context.family.schedule.alpha_sigma(t, batch.noise)
        x0 = samples["student"]
        with torch.no_grad():
            v = context.networks.teacher.output(alpha * x0 + sigma * batch.noise, t, batch.conditions)
        expected.append((alpha * (v - (alpha * batch.noise - sigma * x0))).square().mean())
    assert measured["student_loss"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_each_process_measures_its_share(make_context):
    context, sizes = make_context(), []
    context.parallel.rank, context.parallel.world = 1, 2
    context.parallel.mean = lambda value: sizes.append(len(probe._fixed[0].z)) or value
    probe = PathProbe(*context.parts)
    probe(context.networks.teacher)
    assert sizes == [8, 8] and len(probe._fixed[2]["student"]) == 8


def test_it_is_the_same_again_whatever_noise_the_teachers_scheduler_adds(make_context, tmp_path):
    """A resumed run measures anew, and an ancestral sampler needs random numbers of its own."""
    folder = save_sd(tmp_path / "sd")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    config["_class_name"] = "DDPMScheduler"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    context = make_context(pretrained_teacher_model=str(folder))
    first, again = (PathProbe(*context.parts)(context.networks.teacher) for _ in range(2))
    assert first == again


class OddDenoiser(Denoiser):
    """Denoises by a function, and generates by another where x_t is z itself."""

    def __init__(self, denoiser, z, sample, denoise):
        super().__init__(denoiser.family, denoiser.network, denoiser.schedule)
        self.z, self.functions = z, (sample, denoise)

    def x0(self, x_t, t, conditions):
        sample, denoise = self.functions
        return sample(x_t, conditions) if torch.equal(x_t, self.z) else denoise(x_t, t)


@pytest.fixture
def untrained(make_context, small_unet):
    """A function from the functions of an `OddDenoiser` to what is measured of such a student."""
    context = make_context(student="full", student_unet=str(small_unet))
    batch = context.batches.make("untrained", 1, size=16)

    def measure(sample=lambda z, conditions: z, denoise=lambda x_t, t: x_t):
        denoiser = OddDenoiser(context.student.denoiser, batch.z, sample, denoise)
        context.networks.student = Student(denoiser, OneStep(399))
        return PathProbe(*context.parts).untrained()

    measure.schedule, measure.batch = context.family.schedule, batch
    return measure


def test_variations_are_those_of_one_prompt_over_the_noise(untrained):
    values = untrained(sample=lambda z, conditions: 3 * z)
    assert values["variation"] == pytest.approx(3, rel=0.1) and values["teacher_variation"] > 0

    def of_the_prompt(z, conditions):
        return conditions.tensors["text"][:, :, :1, None].sum(1, True) + 0 * z

    assert untrained(sample=of_the_prompt)["variation"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_error_of_the_untrained_student_is_a_share_of_that_of_a_prediction_of_zero(untrained, share):
    def predicts_a_share_of_the_noise(x_t, t):
        assert (t == 399).all()
        return untrained.schedule.to_x0(share * untrained.batch.noise, x_t, t)

    values = untrained(denoise=predicts_a_share_of_the_noise)
    assert values["error"] == pytest.approx((1 - share) ** 2, rel=1e-3)


def test_the_errors_of_a_student_with_the_teachers_weights_are_the_same(make_context):
    values = PathProbe(*make_context().parts).untrained()
    assert values["error"] == values["teacher_error"] and values["variation"] != values["teacher_variation"]
