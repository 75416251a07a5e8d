# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The sample images on the way."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from tiny_edm import save_teacher

from disback_diffusers.errors import UsageError
from disback_diffusers.training import validation


@pytest.mark.slow
def test_samples_are_generated_one_by_one(make_context, tmp_path):
    """However many prompts there are: memory was planned for training."""
    context, sizes = make_context(guidance_scale=2.0, validation_prompts=["a red cat"] * 5), []
    validator = context.validator(tmp_path)
    context.roles.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    sheet = validator.write_sheet(3)
    assert sizes == [2] * 5 * 25 + [1] * 5  # the teacher with guidance in 25 steps, the student in one
    assert Image.open(tmp_path / "step-3.png").size == sheet.size
    sizes.clear()
    validator.write_sheet(4)
    assert sizes == [1] * 5  # the teacher's are kept


@pytest.mark.slow
@pytest.mark.parametrize("scale, scheduler", [(1.0, None), (3.0, None), (3.0, "EulerDiscreteScheduler")])
def test_the_teachers_are_those_of_the_stock_pipeline(make_context, sd_folder, tmp_path, scale, scheduler):
    settings = {"validation_inference_steps": 4, "validation_scheduler": scheduler, "guidance_scale": scale}
    context = make_context(validation_prompts=["a red cat", "a blue dog"], **settings)
    for role in ("target", "fake", "student"):  # none of which is the teacher
        context.roles.randomize(role, seed=1)
    validator, stock = context.validator(tmp_path), StableDiffusionPipeline.from_pretrained(sd_folder)
    stock.set_progress_bar_config(disable=True)
    if scheduler:
        stock.scheduler = EulerDiscreteScheduler.from_config(stock.scheduler.config)
    for image, prompt, z in zip(validator.teacher_images(), validator.prompts, validator.z, strict=True):
        expected = stock(prompt, latents=z[None], num_inference_steps=4, guidance_scale=scale, output_type="pt").images
        torch.testing.assert_close(image[None], expected, atol=1e-4, rtol=1e-4)


def test_the_students_are_those_of_its_average(make_context, tmp_path):
    context = make_context(validation_prompts=["a red cat"])
    context.roles.randomize("student", seed=1)
    for average in context.student.ema.shadow_params:
        average.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    validator, weights = context.validator(tmp_path), context.roles.state_dict("student")
    before = {key: value.clone() for key, value in weights.items()}
    images = validator.student_images()
    assert all(torch.equal(value, before[key]) for key, value in weights.items())
    context.student.ema.copy_to(context.student.parameters())
    conditions = context.family.load_encoder("cpu")(["a red cat"])
    with torch.no_grad():
        expected = context.family.decode(context.student(validator.z, conditions))
    torch.testing.assert_close(images, expected)


def test_a_scheduler_that_cannot_sample_the_teacher_is_refused(make_context):
    with pytest.raises(UsageError, match="--validation_scheduler KarrasVeScheduler cannot .* DDIMScheduler"):
        make_context(validation_scheduler="KarrasVeScheduler")


def test_the_sheet_names_the_classes(make_context, tmp_path, monkeypatch):
    teacher = save_teacher(tmp_path / "teacher", classes=3, empty=3)
    (tmp_path / "teacher" / "classes.json").write_text(
        '{"classes": 3, "empty_class": 3, "names": ["cats", "dogs", "x"]}'
    )
    files = {"pretrained_teacher_model": teacher, "prompt_dataset": None, "resolution": []}
    context, captions = make_context(**files, validation_prompts=["1", "0"]), []
    blank = Image.new("RGB", (1, 1))
    monkeypatch.setattr(validation, "contact_sheet", lambda rows, below: captions.append(below) or blank)
    context.validator(tmp_path).write_sheet(3)
    assert captions == [["dogs", "cats"]]
