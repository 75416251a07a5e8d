# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The weights of a student on disk."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, safe_open
from tiny_models import build_sd_unet
from tiny_students import ALPHA, RANK, lora_student

from disback_diffusers import RunError
from disback_diffusers.artifact.save import save_lora, save_network
from disback_diffusers.files import LORA_NAME


@pytest.mark.parametrize("kind", ["a LoraConfig", "a dict"])
def test_a_lora_file_keeps_keys_and_alpha(sd_folder, tmp_path, kind):
    roles = lora_student(sd_folder)
    state, config = roles.state_dict("student"), roles.network.peft_config["student"]
    save_lora(tmp_path, state, config if kind == "a LoraConfig" else roles.lora_config("student"))
    saved = load_file(tmp_path / LORA_NAME)
    assert saved.keys() == {f"unet.{key}" for key in state}
    assert all(torch.equal(saved[f"unet.{key}"], value) for key, value in state.items())
    with safe_open(tmp_path / LORA_NAME, "pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (RANK, ALPHA)


@pytest.mark.parametrize("state", [{"mid_block.to_q.lora.down.weight": torch.zeros(4, 8)}, {}])
def test_a_lora_with_converted_keys_is_refused(tmp_path, state):
    with pytest.raises(ValueError, match="no keys of a PEFT LoRA"):
        save_lora(tmp_path, state, {"r": 4})
    assert not list(tmp_path.iterdir())


def test_a_network_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").touch()
    unet = build_sd_unet(seed=3)
    unet.register_to_config(_name_or_path="/home/somebody/teacher/unet")
    save_network(tmp_path, unet)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "unet",
    ]
    assert "somebody" not in (tmp_path / "unet" / "config.json").read_text()
    again = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet").state_dict()
    assert all(torch.equal(again[key], value) for key, value in unet.state_dict().items())


def test_a_network_stays_when_the_new_one_cannot_be_written(tmp_path):
    save_network(tmp_path, build_sd_unet())

    class FullDisk(UNet2DConditionModel):
        def save_pretrained(self, folder):
            Path(folder).mkdir()
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        save_network(tmp_path, FullDisk.from_config(build_sd_unet().config))
    UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert [p.name for p in tmp_path.iterdir()] == ["unet"]


def test_a_network_with_adapters_is_refused(sd_folder, tmp_path):
    with pytest.raises(ValueError, match="carries adapters"):
        save_network(tmp_path, lora_student(sd_folder).network)
    assert not list(tmp_path.iterdir())
