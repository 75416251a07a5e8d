# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Adapter files: what is saved comes back, and what does not fit is refused."""

import json

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import build_sd_unet
from tiny_roles import build, equal, run, snapshot

from disback_diffusers import UsageError
from disback_diffusers.models.roles import Roles


def test_a_saved_role_comes_back_bit_for_bit(tmp_path):
    roles = build("fake", "student")
    file = tmp_path / "degradation" / "000003.safetensors"
    roles.save("fake", file, {"step": "3"})
    keys = {key: value.shape for key, value in get_peft_model_state_dict(roles.network, adapter_name="fake").items()}
    assert {key: value.shape for key, value in load_file(file).items()} == keys
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["step"] == "3" and metadata["base_fingerprint"] == roles.fingerprint
    assert json.loads(metadata["lora_adapter_metadata"]) == roles.lora_config("fake")

    other = build("target")
    objects = [id(p) for p in other.parameters("target")]
    other.load("target", file)
    assert equal(other.state_dict("target"), roles.state_dict("fake"))
    assert [id(p) for p in other.parameters("target")] == objects
    assert all(p.requires_grad for p in other.parameters("target"))
    with torch.no_grad(), roles("fake"), other("target"):
        expected = run(roles)
        assert torch.equal(run(other), expected)
        stock = build_sd_unet()
        stock.load_lora_adapter(file.parent, weight_name=file.name, prefix=None)
        assert torch.equal(run(stock), expected), "alpha, or a tensor, is lost to diffusers"

    with pytest.raises(ValueError, match="base_fingerprint"):
        roles.save("fake", file, {"base_fingerprint": "mine"})
    other.load_state_dict("target", roles.state_dict("student"))
    assert equal(other.state_dict("target"), roles.state_dict("student"))


FEW = ["to_k", "conv1"]
KEY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"
DAMAGES = {
    "missing": (lambda state, _: state.pop(KEY), f"lacks the tensor {KEY}"),
    "extra": (
        lambda state, _: state.update({"conv_in.lora_A.weight": torch.zeros(1)}),
        "a tensor conv_in.lora_A.weight",
    ),
    "misshaped": (lambda state, _: state.update({KEY: state[KEY].T.contiguous()}), f"{KEY} has the shape (16, 4)"),
    "NaN": (lambda state, _: state[KEY].view(-1)[-1:].fill_(float("nan")), f"{KEY} holds"),
    "Inf": (lambda state, _: state[KEY].view(-1)[:1].fill_(float("-inf")), f"{KEY} holds"),
    "float32 Inf": (
        lambda state, _: state.update({KEY: torch.full(state[KEY].shape, 1e300, dtype=torch.float64)}),
        KEY,
    ),
    "integers": (lambda state, _: state.update({KEY: state[KEY].int()}), f"{KEY} holds"),
    "another base": (lambda _, meta: meta.update(base_fingerprint="0" * 64), "another base"),
    "no fingerprint": (lambda _, meta: meta.pop("base_fingerprint"), "no base_fingerprint"),
    "no config": (lambda _, meta: meta.pop("lora_adapter_metadata"), "no valid lora_adapter_metadata"),
    "broken config": (lambda _, meta: meta.update(lora_adapter_metadata="{"), "no valid lora_adapter_metadata"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_file_that_does_not_fit_is_refused(tmp_path, kind):
    roles, file = build("fake", "target", targets=FEW), tmp_path / "node.safetensors"
    roles.save("fake", file)
    with safe_open(file, "pt") as opened:
        state, metadata = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
    damage, words = DAMAGES[kind]
    damage(state, metadata)
    save_file(state, file, metadata)
    expect_refusal(roles, file, words)


@pytest.mark.parametrize(
    "lora, words",
    [
        ({"rank": 2}, "lora_rank 2, the role 4: set the same"),
        ({"alpha": 1}, "lora_alpha 1, the role 8: set the same"),
        ({"targets": ["to_k"]}, "lacks the tensor"),
    ],
)
def test_a_file_of_another_lora_is_refused(tmp_path, lora, words):
    file = tmp_path / "node.safetensors"
    build("fake", **{"targets": FEW, **lora}).save("fake", file)
    expect_refusal(build("target", targets=FEW), file, words)


@pytest.mark.parametrize("kind", ["truncated", "header only", "garbage", "empty", "pickle", "absent", "folder"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, kind):
    roles, file = build("target", targets=FEW), tmp_path / "node.safetensors"
    roles.save("target", file)
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pickle":
        torch.save(roles.state_dict("target"), file)
    elif kind != "absent":
        file.write_bytes(
            {"truncated": content[:-1], "header only": content[:64], "garbage": b"\xff" * 99, "empty": b""}[kind]
        )
    expect_refusal(roles, file, "cannot be read as a safetensors file")


def expect_refusal(roles, file, words):
    before = snapshot(roles, "target")
    with pytest.raises(UsageError) as error:
        roles.load("target", file)
    assert str(file) in str(error.value) and words in str(error.value)
    assert equal(snapshot(roles, "target"), before)


def test_the_fingerprint_is_that_of_the_base_alone():
    expected = Roles(build_sd_unet()).fingerprint
    assert len(expected) == 64
    assert build("fake").fingerprint == expected, "attaching adapters must not change it"
    assert Roles(build_sd_unet().to(torch.bfloat16)).fingerprint == expected
    assert Roles(build_sd_unet().to(memory_format=torch.channels_last)).fingerprint == expected
    assert Roles(build_sd_unet(seed=1)).fingerprint != expected
    unet = build_sd_unet()
    unet.conv_out.bias.data[-1] *= 1.01
    assert Roles(unet).fingerprint != expected, "small tensors count in full"
    found = {expected}
    for name, shape in (("one", (2, 3)), ("one", (3, 2)), ("two", (2, 3))):
        unet = build_sd_unet()
        unet.register_buffer(name, torch.ones(shape))
        found.add(Roles(unet).fingerprint)
    assert len(found) == 4, "names and shapes count"


def test_a_float16_release_has_one_fingerprint_in_all_precisions():
    dtypes = (torch.float16, torch.float32, torch.bfloat16)
    assert len({Roles(build_sd_unet().half().to(dtype)).fingerprint for dtype in dtypes}) == 1
