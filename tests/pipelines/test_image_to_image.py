# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the image-to-image and inpainting pipelines may be called with; what they generate is in test_stock.py."""

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from PIL import Image

from disback_diffusers import DisBackPipeline, UsageError


PICTURE = Image.new("RGB", (32, 32), "red")


@pytest.fixture(scope="module", params=["image to image", "inpainting"])
def pipe(request, family):
    auto = AutoPipelineForImage2Image if request.param == "image to image" else AutoPipelineForInpainting
    pipe = auto.from_pipe(DisBackPipeline.from_pretrained(family.folders["lora"]))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe, **arguments):
    mask = {"mask_image": Image.new("L", (32, 32), "white")} if "Inpaint" in type(pipe).__name__ else {}
    seeded = {"generator": torch.Generator().manual_seed(0)}
    return pipe(**{"prompt": "a cat", "image": PICTURE, "output_type": "np", **mask, **seeded, **arguments}).images


WRONG = [
    ({"prompt": []}, r"prompt=\[\] must be"),
    ({"image": None}, "image is missing"),
    ({"generator": 0}, "generator=0 is no torch.Generator"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 must be"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt=1.5 must be"),
    ({"clip_skip": "x"}, "clip_skip='x' must be"),
    ({"output_type": "jpg"}, "output_type='jpg' must be one of"),
    ({"strength": 0.8}, "strength: .* leave it out"),
    ({"num_inference_steps": 4}, "trained for 1 step"),
    ({"timesteps": [999]}, "trained for timesteps"),
    ({"guidance_scale": 7.5}, "guidance_scale=7.5: the student has learned"),
    ({"guidance_scale": "x"}, "guidance_scale='x' must be a number"),
    ({"negative_prompt": "ugly"}, "negative_prompt: the student"),
    ({"negative_prompt_embeds": torch.zeros(1, 77, 32)}, "negative_prompt_embeds: the student"),
    ({"sigmas": [1.0]}, "sigmas: "),
    ({"ip_adapter_image": PICTURE}, "load_ip_adapter"),
    ({"cross_attention_kwargs": {"scale": float("nan")}}, "must be a finite number"),
]


@pytest.mark.parametrize(
    "arguments, message", WRONG, ids=lambda value: value[:40] if isinstance(value, str) else ",".join(value)
)
def test_wrong_values_have_one_clear_line(pipe, arguments, message):
    with pytest.raises(UsageError, match=message):
        call(pipe, **arguments)


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize("arguments", [{"denoising_start": 0.5}, {"denoising_end": 0.5}, {"negative_prompt_2": "x"}])
def test_wrong_values_of_sdxl(pipe, arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))}"):
        call(pipe, **arguments)


def test_an_unknown_argument(pipe):
    with pytest.raises((UsageError, TypeError), match="foo"):
        call(pipe, foo=1)


def test_what_changes_nothing_is_accepted(pipe):
    expected = call(pipe)
    for arguments in (
        {"negative_prompt": [""]},
        {"timesteps": torch.tensor([399])},
        {"strength": 1.0, "num_inference_steps": 1, "guidance_scale": 1.0},
        {"image": PICTURE.convert("RGBA")},
    ):
        assert np.array_equal(call(pipe, **arguments), expected), arguments
