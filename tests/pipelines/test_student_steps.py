# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students that were trained to generate in several steps (`--student_steps`)."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from tiny_students import RANK

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.layout import write_config
from disback_diffusers.files import CONFIG_NAME


EVEN, UNEVEN = [399, 199], [499, 149, 49]


def few_step_student(family, folder, timesteps):
    """The folder of the LoRA student as a training script would describe it."""
    shutil.copytree(family.folders["lora"], folder)
    config = {"base_model": str(family.base), "student": "lora", "lora_rank": RANK, "lora_alpha": RANK,
              "timesteps": timesteps}  # fmt: skip
    write_config(folder, {**config, "student_steps": len(timesteps)})
    return folder


@pytest.fixture(scope="module", params=[EVEN, UNEVEN], ids=["even", "uneven"])
def timesteps(request):
    return request.param


@pytest.fixture(scope="module")
def ours(family, timesteps, tmp_path_factory):
    return DisBackPipeline.from_pretrained(few_step_student(family, tmp_path_factory.mktemp("few") / "f", timesteps))


def seeded(generate, pipe, **kwargs):
    """Several steps take noise in between."""
    return generate(pipe, latents=None, generator=torch.Generator().manual_seed(0), **kwargs)


def test_all_steps_are_the_default_and_those_of_plain_diffusers(family, ours, timesteps, generate, difference):
    plain = DiffusionPipeline.from_pretrained(family.base)
    plain.load_lora_weights(family.folders["lora"])
    plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    images = seeded(generate, ours)
    for count in range(1, len(timesteps) + 1):
        given = {"timesteps": timesteps[:count], "num_inference_steps": count}
        expected = seeded(generate, plain, **given, guidance_scale=0)
        assert difference(seeded(generate, ours, num_inference_steps=count), expected) < 1e-4
    assert difference(images, expected) < 1e-4
    assert difference(images, seeded(generate, ours, num_inference_steps=1)) > 1e-3


def test_steps_it_was_not_trained_for(ours, timesteps, generate):
    with pytest.raises(UsageError, match=f"num_inference_steps={len(timesteps) + 1}: the student was trained for 1"):
        generate(ours, num_inference_steps=len(timesteps) + 1)
    with pytest.raises(UsageError, match=r"timesteps=\[99\]: the student was trained for"):
        generate(ours, timesteps=[99])


@pytest.mark.slow
def test_once_saved(ours, timesteps, tmp_path, generate, difference, warned):
    """Plain diffusers spaces several steps evenly: where the student's are not, one step is left."""
    ours.save_pretrained(tmp_path)
    again, stock = DisBackPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)
    kept = len(timesteps) if timesteps == EVEN else 1
    assert any("one step only" in message for message in warned()) == (timesteps == UNEVEN)
    expected = seeded(generate, ours, num_inference_steps=kept)
    assert difference(seeded(generate, again), expected) < 1e-4
    assert difference(seeded(generate, stock, num_inference_steps=kept), expected) < 1e-4
    assert difference(seeded(generate, DisBackPipeline.from_pipe(stock)), expected) < 1e-4
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["timesteps"] == timesteps[:kept]
    card = (tmp_path / "README.md").read_text()
    if timesteps == EVEN:
        assert "A 2-step student" in card and "**2** UNet evaluations, at the timesteps 399, 199" in card
        assert "num_inference_steps=2)" in card and "2 steps give less detail" in card
    else:
        assert "**one** UNet evaluation, at timestep 499" in card and "One step gives less detail" in card


def test_its_card_has_the_call_of_plain_diffusers(ours, timesteps, tmp_path):
    from disback_diffusers.artifact.card import model_card

    text = model_card(tmp_path, ours._student_config).read_text()
    assert f"num_inference_steps={len(timesteps)}, timesteps={timesteps}, guidance_scale=0" in text


def test_from_pipe_keeps_the_steps(ours, timesteps, generate, difference):
    for pipe in (DisBackPipeline.from_pipe(ours), DisBackPipeline.from_pipe(ours.stock_class.from_pipe(ours))):
        assert difference(seeded(generate, pipe), seeded(generate, ours)) < 1e-5


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"student_timesteps": [199, 399]}, r"student_timesteps=\[199, 399\] must be whole numbers above 0, descend"),
        ({"student_timesteps": [399, 0]}, r"student_timesteps=\[399, 0\] must be"),
        ({"student_timesteps": EVEN, "conditioning_timestep": 299}, "conditioning_timestep=299 contradicts"),
        ({"student_timesteps": EVEN, "few_step": True}, "few_step=True contradicts"),
        ({"student_timesteps": [1399, 199]}, "timestep 1399 is outside"),
    ],
)
def test_options_that_cannot_work(sd, options, expected):
    pipe = DiffusionPipeline.from_pretrained(sd.base)
    with pytest.raises(UsageError, match=expected):
        DisBackPipeline.from_pipe(pipe, **options)


def test_a_config_whose_numbers_contradict_each_other(sd, tmp_path):
    folder = few_step_student(sd, tmp_path / "student", EVEN)
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "student_steps": 4}))
    with pytest.raises(UsageError, match="has student_steps 4; it has 2 timesteps"):
        DisBackPipeline.from_pretrained(folder)
