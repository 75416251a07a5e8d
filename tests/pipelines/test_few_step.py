# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LCM-LoRA students, which were trained at later timesteps too."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from tiny_students import RANK

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.layout import write_config
from disback_diffusers.files import CONFIG_NAME


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


def seeded(generate, pipe, **kwargs):
    """Several steps take noise in between."""
    return generate(pipe, latents=None, generator=torch.Generator().manual_seed(0), **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_several_steps_are_those_of_plain_diffusers(ours, plain, generate, difference, steps):
    expected = seeded(generate, plain, num_inference_steps=steps, guidance_scale=0)
    assert difference(seeded(generate, ours, num_inference_steps=steps), expected) < 1e-5
    if steps == 2:
        assert difference(seeded(generate, ours, timesteps=[999, 499]), expected) < 1e-5
        assert difference(seeded(generate, ours), expected) > 1e-3  # one step


@pytest.mark.slow
def test_once_saved(ours, tmp_path, generate, difference):
    ours.save_pretrained(tmp_path)
    again, stock = DisBackPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)
    for steps in (1, 2, 4):
        expected = seeded(generate, ours, num_inference_steps=steps)
        assert difference(seeded(generate, again, num_inference_steps=steps), expected) < 1e-5
        theirs = seeded(generate, stock, num_inference_steps=steps)  # at its default guidance
        assert difference(theirs, expected) < 1e-5
    assert seeded(generate, stock).isfinite().all()
    in_memory = type(stock).from_pipe(ours)  # of a stock class, and not of this folder
    for other in map(DisBackPipeline.from_pipe, (stock, ours, in_memory)):
        assert other.conditioning_timestep == 999
        assert difference(seeded(generate, other, num_inference_steps=4), expected) < 1e-5
    assert "also trained for 2, 4 or 8 steps" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["timesteps"] == [999, *LATER]


def test_a_student_of_version_0_1(sd, tmp_path, generate, difference):
    """Format 1 of disback_config.json has the first timestep only."""
    folder = lcm_student(sd, tmp_path / "lcm")
    new, file = DisBackPipeline.from_pretrained(folder), folder / CONFIG_NAME
    config = json.loads(file.read_text())
    assert config.pop("timesteps") == [999, *LATER]
    file.write_text(json.dumps({**config, "format": 1, "conditioning_timestep": 999}))
    old = DisBackPipeline.from_pretrained(folder)
    for steps in (1, 2, 4, 8):
        images = [seeded(generate, pipe, num_inference_steps=steps) for pipe in (old, new)]
        assert difference(*images) == 0
    with pytest.raises(UsageError, match="trained for 1, 2, 4 or 8 steps"):
        generate(old, num_inference_steps=3)


@pytest.mark.parametrize(
    "arguments", [{"num_inference_steps": 3}, {"num_inference_steps": 50}, {"timesteps": [999, 259]}]
)
def test_steps_it_was_not_trained_for(ours, generate, arguments):
    with pytest.raises(UsageError, match=r"trained for (1, 2, 4 or 8 steps|timesteps=\[999\] or \[999, 499\])"):
        generate(ours, **arguments)


def test_trained_for_one_step_only(sd, tmp_path, generate):
    pipe = DisBackPipeline.from_pretrained(lcm_student(sd, tmp_path / "lcm", later=0.0))
    with pytest.raises(UsageError, match="num_inference_steps=2: .* trained for 1 step"):
        generate(pipe, num_inference_steps=2)


def test_trained_for_some_of_the_steps_only(sd, tmp_path, generate):
    folder = lcm_student(sd, tmp_path / "lcm")
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "timesteps": [999, 499]}))
    pipe = DisBackPipeline.from_pretrained(folder)
    assert seeded(generate, pipe, num_inference_steps=2).isfinite().all()
    with pytest.raises(UsageError, match="num_inference_steps=4: .* trained for 1 or 2 steps"):
        generate(pipe, num_inference_steps=4)


def test_an_earlier_start(sd, tmp_path, generate, difference, warned):
    """Plain diffusers would start at 999: so the saved pipeline has the one step at 799 only."""
    ours = DisBackPipeline.from_pretrained(lcm_student(sd, tmp_path / "lcm", timestep=799))
    assert seeded(generate, ours, timesteps=[799, 499]).isfinite().all()
    ours.save_pretrained(tmp_path / "whole")
    assert any("has one step only" in message for message in warned())
    again = DisBackPipeline.from_pretrained(tmp_path / "whole")
    for pipe in (again, DiffusionPipeline.from_pretrained(tmp_path / "whole")):
        assert difference(generate(pipe, num_inference_steps=1), generate(ours)) < 1e-5
    with pytest.raises(UsageError, match="trained for 1 step"):
        generate(again, num_inference_steps=2)
