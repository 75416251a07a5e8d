# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A released LoRA as the start of a role, read in any key style."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_roles import run
from tiny_students import ALPHA, RANK, lora_student, save_kohya, save_peft

from disback_diffusers.errors import UsageError
from disback_diffusers.models.lora_start import LoraStart
from disback_diffusers.models.lora_targets import ALL_TARGETS, with_layers
from disback_diffusers.models.roles import Roles


@pytest.fixture(scope="module")
def source(sd_folder):
    """The roles whose "student" is the LoRA of the files."""
    return lora_student(sd_folder)


@pytest.fixture(params=[save_peft, save_kohya], ids=["peft", "kohya"])
def file(request, source, tmp_path):
    return str(request.param(tmp_path / "lora", source))


def empty_role(source, rank, alpha, targets=ALL_TARGETS):
    """The same base, with a role that is still the teacher."""
    base = copy.deepcopy(source.network)
    base.unload_lora()
    roles = Roles(base)
    roles.add("student", rank, alpha, targets)
    return roles


@torch.no_grad()
def difference(ours, theirs):
    return (run(ours) - run(theirs)).norm() / run(theirs).norm()


@pytest.mark.parametrize("rank, alpha", [(RANK, ALPHA), (RANK, 1.0), (2 * RANK + 1, 3.0)])
def test_a_role_of_enough_rank_becomes_the_lora(source, file, rank, alpha):
    roles = empty_role(source, rank, alpha)
    roles.randomize("student", seed=5)  # whatever was there
    kept = LoraStart(file, source.network.config).write_into(roles, "student")
    assert kept == pytest.approx(1, abs=1e-9)
    source.use("student"), roles.use("student")
    assert difference(roles, source) < 2e-3  # kohya's file is float16
    roles.use()
    with source():
        assert difference(roles, source) < 1e-6, "the base is as it was"


def test_what_the_file_leaves_out_is_the_teacher(source, tmp_path):
    state = {key: value for key, value in load_file(save_kohya(tmp_path / "l", source)).items() if "mid_block" in key}
    save_file(state, tmp_path / "mid.safetensors")
    roles = empty_role(source, RANK, 1.0)
    roles.randomize("student", seed=5)
    LoraStart(str(tmp_path / "mid.safetensors"), source.network.config).write_into(roles, "student")
    for key, value in roles.state_dict("student").items():
        assert "lora_A" in key or value.any() == ("mid_block" in key)


def test_the_spare_rank_can_learn(source, file):
    roles = empty_role(source, 2 * RANK, 1.0)
    LoraStart(file, source.network.config).write_into(roles, "student")
    roles.use("student")
    run(roles).square().mean().backward()
    spare = [p.grad[:, RANK:] for key, p in roles.named_parameters("student") if "lora_B" in key]
    assert all(gradient.abs().sum() > 0 for gradient in spare)


def test_a_smaller_rank_keeps_the_largest_singular_values(source, file):
    """Of each layer it is the best product of this rank."""
    start, roles = LoraStart(file, source.network.config), empty_role(source, 2, 1.0)
    kept, energies = start.write_into(roles, "student"), []
    state = roles.state_dict("student")
    for layer in start.layers:
        down, up = (start.state[f"{layer}.lora_{factor}.weight"].flatten(1) for factor in "AB")
        left, values, right = torch.linalg.svd(start.scales[layer] * up @ down, full_matrices=False)
        found = 0.5 * state[f"{layer}.lora_B.weight"].flatten(1) @ state[f"{layer}.lora_A.weight"].flatten(1)
        torch.testing.assert_close(found, left[:, :2] * values[:2] @ right[:2], atol=1e-4, rtol=1e-3)
        energies.append([values[:2].square().sum(), values.square().sum()])
    some, whole = torch.tensor(energies).sum(0)
    assert kept == pytest.approx((some / whole).item(), rel=1e-4) and kept < 0.99


def test_fused_it_is_the_lora_too(source, file):
    base = copy.deepcopy(source.network)
    base.unload_lora()
    before = run(base)
    LoraStart(file, source.network.config).fuse_into(base)
    source.use("student")
    assert difference(base, source) < 2e-3
    base2 = copy.deepcopy(base)
    LoraStart(file, source.network.config).fuse_into(base2, strength=-1.0)
    torch.testing.assert_close(run(base2), before, atol=1e-4, rtol=1e-4)


def test_a_lora_of_mixed_ranks_and_alphas(source, sd_folder, tmp_path):
    """As diffusers itself loads it."""
    state = load_file(save_kohya(tmp_path / "lora", source))
    layer = next(key for key in state if "mid_block" in key and key.endswith("lora_down.weight"))
    name = layer.removesuffix(".lora_down.weight")
    state[layer], state[f"{name}.lora_up.weight"] = state[layer][:2], state[f"{name}.lora_up.weight"][:, :2]
    state[f"{name}.alpha"] = torch.tensor(7.0)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "mixed.safetensors")
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.load_lora_weights(str(tmp_path / "mixed.safetensors"))
    roles = empty_role(source, RANK, 1.0)
    LoraStart(str(tmp_path / "mixed.safetensors"), source.network.config).write_into(roles, "student")
    roles.use("student")
    assert difference(roles, pipe.unet) < 1e-3


def test_layers_that_are_left_out_are_adapted_too(source, file):
    start = LoraStart(file, source.network.config)
    bare = empty_role(source, 1, 1.0, ["conv_in"]).network
    bare.unload_lora()
    targets = with_layers(bare, ["to_q"], start.layers)
    assert targets[0] == "to_q" and len(targets) > 20 and not any(name.endswith(".to_q") for name in targets[1:])
    roles = empty_role(source, RANK, 1.0, targets)
    assert start.write_into(roles, "student") == pytest.approx(1, abs=1e-9)
    roles.use("student"), source.use("student")
    assert difference(roles, source) < 2e-3
    with pytest.raises(UsageError, match="adapts nowhere.to_q, which is no linear or convolution layer"):
        with_layers(bare, ["conv1"], ["nowhere.to_q"])


def test_a_lora_of_another_base(source, file, tmp_path):
    state = load_file(file)
    key = next(key for key in state if key.endswith(("lora_A.weight", "lora_down.weight")) and "to_k" in key)
    state[key] = torch.zeros(state[key].shape[0], 5)
    save_file(state, tmp_path / "other.safetensors")
    start, roles = LoraStart(str(tmp_path / "other.safetensors"), source.network.config), empty_role(source, RANK, 1.0)
    for use in (lambda: start.write_into(roles, "student"), lambda: start.fuse_into(copy.deepcopy(source.network))):
        with pytest.raises(UsageError, match="other.safetensors has .*to_k.* of another shape"):
            use()


@pytest.mark.parametrize(
    "source, expected",
    [
        ("owner/name/no.bin", "is a pickled file"),
        ("./missing.safetensors", "is no LoRA file and no folder with pytorch_lora_weights"),
        ("missing.safetensors", "is no LoRA file"),
        ("folder/missing.safetensors", "is no LoRA file"),
        ("owner/name/folder", "is no LoRA file"),
    ],
)
def test_sources_that_are_none(source, expected):
    with pytest.raises(UsageError, match=expected):
        LoraStart(source, {})


def test_a_file_of_a_repository(source, tmp_path, monkeypatch):
    saved = save_peft(tmp_path / "lora", source)
    asked = []
    monkeypatch.setattr(
        "disback_diffusers.models.lora_file.hf_hub_download", lambda *words: asked.append(words) or str(saved)
    )
    for name in ("owner/name", "owner/name/folder/one-step.safetensors"):
        LoraStart(name, source.network.config)
    assert asked == [
        ("owner/name", "pytorch_lora_weights.safetensors"), ("owner/name", "folder/one-step.safetensors")
    ]  # fmt: skip
