# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LCM-LoRA files of every key style: read, written as they were, refused where they are something else."""

import re

import pytest
import torch
from diffusers import LCMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import SCHEDULER
from tiny_students import ALPHA, RANK, lora_student, save_kohya, save_peft

from disback_diffusers import UsageError
from disback_diffusers.files import LORA_NAME
from disback_diffusers.models.lcm_lora import LcmLora, later_timesteps, timesteps_by_steps


STYLES = {"peft": save_peft, "kohya": save_kohya}


@pytest.fixture(scope="module")
def roles(sd_folder):
    return lora_student(sd_folder)


@pytest.fixture(params=STYLES)
def file(request, roles, tmp_path):
    return STYLES[request.param](tmp_path / "lcm", roles)


def test_what_the_file_says(file, roles):
    lora, expected = LcmLora(str(file.parent), roles.network.config), roles.state_dict("student")
    assert (lora.rank, lora.alpha) == (RANK, ALPHA)
    assert lora.state.keys() == expected.keys()
    assert {key.split(".lora_")[0] for key in expected} == set(lora.layers)
    for key, value in expected.items():
        torch.testing.assert_close(lora.state[key], value, rtol=1e-3, atol=1e-3)  # kohya's is float16


def test_it_is_written_back_as_it_was(file, roles, tmp_path):
    lora = LcmLora(str(file), roles.network.config)
    lora.save(tmp_path / "same", lora.state)
    before, after = load_file(file), load_file(tmp_path / "same" / LORA_NAME)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with safe_open(file, "pt") as a, safe_open(tmp_path / "same" / LORA_NAME, "pt") as b:
        assert a.metadata() == b.metadata()
    lora.save(tmp_path / "other", {key: value + 1 for key, value in lora.state.items()})
    moved = LcmLora(str(tmp_path / "other"), roles.network.config)
    for key, value in lora.state.items():
        torch.testing.assert_close(moved.state[key], value + 1, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda s: s | {"lora_unet_nowhere.lora_down.weight": torch.zeros(4, 4)}, "nowhere"),
        (lambda s: s | {"text_encoder.layers.0.lora_A.weight": torch.zeros(4, 4)}, "UNet only"),
        (lambda s: {key: value[:2] if "down" in key and "mid" in key else value for key, value in s.items()}, "rank"),
        (
            lambda s: {key: value * 2 if "alpha" in key and "mid" in key else value for key, value in s.items()},
            "alpha",
        ),
        (lambda s: {}, "nothing"),
    ],
)
def test_files_that_are_no_lcm_lora(roles, tmp_path, change, expected):
    file = save_kohya(tmp_path / "lcm", roles)
    save_file(change(load_file(file)), file)
    with pytest.raises(UsageError) as raised:
        LcmLora(str(file), roles.network.config)
    message = str(raised.value)
    assert message.startswith(f"{file} ") and expected in message and "\n" not in message


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.safetensors", ".", "not a/valid name"])
def test_no_file(roles, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"^{re.escape(name)} "):
        LcmLora(name, roles.network.config)


def test_a_truncated_file(roles, tmp_path):
    file = save_kohya(tmp_path / "lcm", roles)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="no readable safetensors"):
        LcmLora(str(file), roles.network.config)


def test_a_dora_is_refused(roles, tmp_path):
    file = save_kohya(tmp_path / "lcm", roles)
    state = load_file(file)
    layer = next(iter(state)).split(".")[0]
    save_file({**state, f"{layer}.dora_scale": torch.ones(4)}, file)
    with pytest.raises(UsageError, match=f"is a DoRA: it has 1 scales such as {layer}.dora_scale"):
        LcmLora(str(file), roles.network.config)


def test_the_timesteps_of_several_steps_are_those_of_diffusers():
    config = {"_class_name": "DDIMScheduler", **SCHEDULER, "clip_sample": False}
    assert later_timesteps(config, 999) == [879, 759, 639, 499, 379, 259, 139]
    choices, scheduler = timesteps_by_steps(config, 999), LCMScheduler(**SCHEDULER)
    assert list(choices) == [1, 2, 4, 8]
    for steps, timesteps in choices.items():
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == timesteps
    assert timesteps_by_steps(config, 499) == {1: [499]}, "the further steps of 2, 4 and 8 would start above it"
    assert later_timesteps(config, 499) == []
    assert later_timesteps(config, 600) == [499], "no number of steps uses 379 after 600"
    assert timesteps_by_steps(config, 999, trained=[999, 499]) == {1: [999], 2: [999, 499]}
