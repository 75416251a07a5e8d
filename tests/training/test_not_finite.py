# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""No picture, probe or metric is made of values that are not finite numbers: they would be black, without a word."""

import math

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from stepping import recording

from disback_diffusers import RunError
from disback_diffusers.errors import NotFiniteError
from disback_diffusers.evaluation.generation import Generation, text_caller
from disback_diffusers.evaluation.sheets import contact_sheet, to_pil


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_picture(value):
    image = torch.rand(3, 8, 8)
    assert to_pil(image).size == (8, 8)
    image[1, 2, 3] = value
    for make in (lambda: to_pil(image), lambda: contact_sheet({"row": image[None]})):
        with pytest.raises(NotFiniteError, match="not finite"):
            make()


@pytest.mark.parametrize("dtype, remedy", [("fp16", "fp16 may .*--dtype bf16"), ("fp32", "check the weights for NaN")])
def test_an_evaluation_stops_at_the_image_and_keeps_those_before(sd_folder, tmp_path, dtype, remedy):
    pipeline = StableDiffusionPipeline.from_pretrained(sd_folder)
    decode, calls = pipeline.vae.decode, []

    def overflowing(latents, **kwargs):
        calls.append(len(latents))
        return decode(latents if len(calls) < 2 else latents * math.nan, **kwargs)

    pipeline.vae.decode = overflowing
    generation = Generation(tmp_path, ["a cat", "a dog", "a red circle"], {"seed": 0, "dtype": dtype})
    with pytest.raises(RunError, match=rf"image 1 \('a dog'\) has values that are not finite numbers: {remedy}"):
        generation.run(text_caller(pipeline, num_inference_steps=1), 1)
    assert generation.missing() == [1, 2]


@pytest.fixture
def validator(make_context, tmp_path):
    return make_context(validation_prompts=["a cat", "a dog"]).validator(tmp_path)


def test_a_row_of_samples_is_left_out_with_a_warning(validator, tmp_path, caplog):
    validator.write_sheet(1)
    validator._teacher_images = validator.teacher_images() * math.nan
    validator.write_sheet(2)
    whole, half = (Image.open(tmp_path / f"step-{step}.png").height for step in (1, 2))
    assert half < 0.7 * whole and "Samples of the teacher, 25 steps, guidance" not in caplog.text
    assert "Samples of the teacher, 25 steps are not finite numbers" in caplog.text
    validator.student_images = lambda: validator._teacher_images
    assert validator.write_sheet(3) is None and not (tmp_path / "step-3.png").exists()
    assert validator.card_samples() == ([], [])


def test_a_distance_is_not_measured(make_context):
    context = make_context(log_fd_every=1, fd_reference="embedded", fd_images=4)
    (probe,), decode = context.probes, context.family.decode
    assert math.isfinite(probe()["fd"])
    context.family.decode = lambda x0: decode(x0) * math.nan
    assert math.isnan(probe()["fd"])


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_stage_1_says_so_before_it_begins(make_context, tmp_path, whose):
    context = make_context()
    if whose == "student":
        context.roles.parameters("student")[0].data.fill_(math.nan)
    else:
        context.family.sample = lambda teacher, z, *given: z * math.inf
    stage = recording(context, tmp_path / "path")
    with pytest.raises(RunError, match=f"samples of the {whose} are not finite numbers: .*check the weights"):
        stage.start()
    assert not (tmp_path / "path").exists()
