# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LCM-LoRA students, which were trained at later timesteps too."""

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from tiny_students import RANK

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.layout import write_config


LATER = (879, 759, 639, 499, 379, 259, 139)  # of 8 steps


def lcm_student(family, folder, timestep=999, later=0.25):
    """The folder of the LoRA student as train_disback_lcm_lora.py would describe it."""
    shutil.copytree(family.folders["lora"], folder)
    timesteps = [timestep, *(t for t in LATER if later and t < timestep)]
    config = {"base_model": str(family.base), "student": "lora", "lora_rank": RANK, "timesteps": timesteps}
    write_config(folder, {**config, "method": {"proportion_later_steps": later}})
    return folder


@pytest.fixture(scope="module")
def ours(family, tmp_path_factory):
    return DisBackPipeline.from_pretrained(lcm_student(family, tmp_path_factory.mktemp("lcm") / "lcm"))


@pytest.fixture(scope="module")
def plain(family):
    """The base and the LoRA in plain diffusers, with the scheduler that LCM users take."""
    pipe = DiffusionPipeline.from_pretrained(family.base)
    pipe.load_lora_weights(family.folders["lora"])
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def seeded(draw, pipe, **kwargs):
    """Several steps draw noise in between."""
    return draw(pipe, latents=None, generator=torch.Generator().manual_seed(0), **kwargs)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_several_steps_are_those_of_plain_diffusers(ours, plain, draw, difference, steps):
    expected = seeded(draw, plain, num_inference_steps=steps, guidance_scale=0)
    assert difference(seeded(draw, ours, num_inference_steps=steps), expected) < 1e-5
    if steps == 2:
        assert difference(seeded(draw, ours, timesteps=[999, 499]), expected) < 1e-5
        assert difference(seeded(draw, ours), expected) > 1e-3  # one step


def test_once_saved(ours, tmp_path, draw, difference):
    ours.save_pretrained(tmp_path)
    again, stock = DisBackPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)
    for steps in (1, 2, 4):
        expected = seeded(draw, ours, num_inference_steps=steps)
        assert difference(seeded(draw, again, num_inference_steps=steps), expected) < 1e-5
        assert difference(seeded(draw, stock, num_inference_steps=steps), expected) < 1e-5  # at its default guidance
    assert seeded(draw, stock).isfinite().all()
    in_memory = type(stock).from_pipe(ours)  # of a stock class, and not of this folder
    for other in map(DisBackPipeline.from_pipe, (stock, ours, in_memory)):
        assert other.conditioning_timestep == 999
        assert difference(seeded(draw, other, num_inference_steps=4), expected) < 1e-5
    assert "also trained for 2, 4 or 8 steps" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "arguments", [{"num_inference_steps": 3}, {"num_inference_steps": 50}, {"timesteps": [999, 259]}]
)
def test_steps_it_was_not_trained_for(ours, draw, arguments):
    with pytest.raises(UsageError, match=r"trained for (1, 2, 4 or 8 steps|timesteps=\[999\] or \[999, 499\])"):
        draw(ours, **arguments)


def test_trained_for_one_step_only(sd, tmp_path, draw):
    pipe = DisBackPipeline.from_pretrained(lcm_student(sd, tmp_path / "lcm", later=0.0))
    with pytest.raises(UsageError, match="num_inference_steps=2: .* trained for 1 step"):
        draw(pipe, num_inference_steps=2)


def test_an_earlier_start(sd, tmp_path, draw, difference, warned):
    """Plain diffusers would start at 999: so the saved pipeline has the one step at 799 only."""
    ours = DisBackPipeline.from_pretrained(lcm_student(sd, tmp_path / "lcm", timestep=799))
    assert seeded(draw, ours, timesteps=[799, 499]).isfinite().all()
    ours.save_pretrained(tmp_path / "whole")
    assert any("has one step only" in message for message in warned())
    again = DisBackPipeline.from_pretrained(tmp_path / "whole")
    for pipe in (again, DiffusionPipeline.from_pretrained(tmp_path / "whole")):
        assert difference(draw(pipe, num_inference_steps=1), draw(ours)) < 1e-5
    with pytest.raises(UsageError, match="trained for 1 step"):
        draw(again, num_inference_steps=2)
