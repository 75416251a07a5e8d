# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students that have learned guidance alone: they take the steps of the base model's scheduler."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image
from tiny_students import RANK

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.layout import read_config, write_config
from disback_diffusers.files import CONFIG_NAME


STEPS = 4


def guided_student(family, folder):
    """The folder of the LoRA student as a training script would describe it."""
    shutil.copytree(family.folders["lora"], folder)
    config = {"base_model": str(family.base), "student": "lora", "lora_rank": RANK, "lora_alpha": RANK}
    write_config(folder, {**config, "inference_steps": STEPS, "method": {"guidance_scale": 7.5}})
    return folder


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return guided_student(family, tmp_path_factory.mktemp("guided") / "student")


@pytest.fixture(scope="module")
def ours(folder):
    return DisBackPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain(family):
    pipe = DiffusionPipeline.from_pretrained(family.base)
    pipe.load_lora_weights(family.folders["lora"])
    return pipe


def test_its_images_are_those_of_plain_diffusers_without_guidance(ours, plain, generate, difference):
    assert type(ours.scheduler) is type(plain.scheduler)
    for count in (STEPS, 7):
        expected = generate(plain, num_inference_steps=count, guidance_scale=1.0)
        assert difference(generate(ours, num_inference_steps=count), expected) < 1e-5
    assert torch.equal(generate(ours), generate(ours, num_inference_steps=STEPS))
    assert difference(generate(ours), expected) > 1e-3
    guided = generate(plain, num_inference_steps=7, guidance_scale=7.5)
    assert difference(guided, expected) > 1e-3


def test_another_scheduler_may_take_its_place(ours, plain, generate, difference):
    """Also one that takes no timesteps of the caller's."""
    own = ours.scheduler, plain.scheduler
    for pipe in (ours, plain):
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    expected = generate(plain, num_inference_steps=STEPS, guidance_scale=1.0)
    assert difference(generate(ours), expected) < 1e-5
    ours.scheduler, plain.scheduler = own


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"timesteps": [999, 499]}, "timesteps: this student takes those of its scheduler"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be a whole number greater than 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 must be"),
        ({"guidance_scale": 7.5}, "guidance_scale=7.5: the student has learned guidance"),
        ({"negative_prompt": "ugly"}, "negative_prompt: the student has learned guidance"),
    ],
)
def test_wrong_calls(ours, generate, arguments, expected):
    with pytest.raises(UsageError, match=expected):
        generate(ours, **arguments)


def test_wrong_options(folder, ours):
    with pytest.raises(UsageError, match="conditioning_timestep: this student takes the steps of its base"):
        DisBackPipeline.from_pretrained(folder, conditioning_timestep=399)
    with pytest.raises(UsageError, match="inference_steps=0 must be a whole number"):
        type(ours).from_pipe(ours, inference_steps=0)


def test_a_broken_configuration_is_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    file = tmp_path / "broken" / CONFIG_NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), "inference_steps": "many"}))
    with pytest.raises(UsageError, match="has inference_steps 'many'; they must be a whole number"):
        DisBackPipeline.from_pretrained(tmp_path / "broken")


def test_once_saved_plain_diffusers_needs_no_guidance_scale(ours, tmp_path, generate, difference):
    ours.save_pretrained(tmp_path)
    again, stock = DisBackPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)
    expected = generate(ours)
    assert difference(generate(again), expected) < 1e-4
    assert difference(generate(stock, num_inference_steps=STEPS), expected) < 1e-4
    assert difference(generate(DisBackPipeline.from_pipe(stock)), expected) < 1e-4
    assert read_config(tmp_path)["inference_steps"] == STEPS and again.config.inference_steps == STEPS
    card = (tmp_path / "README.md").read_text()
    assert "**one** UNet evaluation per step" in card and f"num_inference_steps={STEPS})" in card
    assert "guidance 7.5" in card and "LCMScheduler" not in card and "timestep " not in card


def test_the_card_of_the_lora_has_the_lines_for_plain_diffusers(folder, family):
    from disback_diffusers.artifact.card import model_card

    card = model_card(folder, {**read_config(folder), "base_model": "owner/name"}).read_text()
    assert "`guidance_scale` must be 0 (or 1):" in card and "LCMScheduler" not in card
    assert f"num_inference_steps={STEPS}, guidance_scale=0)" in card


@pytest.mark.parametrize("auto", [AutoPipelineForImage2Image, AutoPipelineForInpainting])
def test_image_to_image_takes_any_strength(ours, auto):
    pipe = auto.from_pipe(ours)
    pipe.set_progress_bar_config(disable=True)

    def call(**arguments):
        mask = {"mask_image": Image.new("L", (32, 32), "white")} if "Inpaint" in type(pipe).__name__ else {}
        given = {"prompt": "a cat", "image": Image.new("RGB", (32, 32), "red"), **mask, "output_type": "pt"}
        return pipe(**given, generator=torch.Generator().manual_seed(0), **arguments).images

    weak, strong = call(strength=0.3), call(strength=0.9)
    assert (weak - strong).abs().max() > 1e-3
    for strength in (0, 1.5, 0.2, "x"):
        with pytest.raises(UsageError, match=f"strength={strength!r} must be at most 1, and at least 1/4 for 4 steps"):
            call(strength=strength)
    if isinstance(pipe, StableDiffusionImg2ImgPipeline):
        stock = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        stock.set_progress_bar_config(disable=True)
        red = Image.new("RGB", (32, 32), "red")
        expected = stock("a cat", red, strength=0.9, num_inference_steps=STEPS, guidance_scale=1.0, output_type="pt",
                         generator=torch.Generator().manual_seed(0))  # fmt: skip
        torch.testing.assert_close(strong, expected.images, atol=1e-5, rtol=0)
