# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LoRA students that start as another UNet: the difference of both UNets, as near as the rank allows."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_students import RANK, lora_student

from disback_diffusers.artifact.save import save_network
from disback_diffusers.errors import UsageError


@pytest.fixture
def few_step_unet(sd_folder, tmp_path):
    """A function that saves the teacher's UNet with a random LoRA of rank 4 in its weights, changed further."""

    def save(change=None, of=sd_folder):
        unet = copy.deepcopy(lora_student(of).network)
        unet.fuse_lora()
        unet.unload_lora()
        if change:
            change(unet)
        save_network(tmp_path / "few-step", unet)
        return str(tmp_path / "few-step")

    return save


def of_unet(context, folder):
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    z, text = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), context.batches.conditions([0, 1])
    with torch.no_grad():
        return unet(z, torch.full((2,), 399), text.tensors["text"]).sample


def test_a_difference_of_the_rank_of_the_student_is_held_exactly(make_context, few_step_unet, caplog):
    folder = few_step_unet()
    context = make_context(student_unet=folder, lora_rank=RANK + 2, lora_alpha=3.0, lora_target_modules=["all"])
    expected = of_unet(context, folder)
    teacher = context.output(context.networks.teacher)
    assert (expected - teacher).norm() > 0.05 * teacher.norm()
    torch.testing.assert_close(context.output(context.student.denoiser), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(context.output(context.networks.fake), teacher)
    assert "keeps" not in caplog.text


def test_a_larger_one_is_cut_to_the_nearest(make_context, few_step_unet, caplog):
    folder = few_step_unet()
    context = make_context(student_unet=folder, lora_rank=2, lora_target_modules=["all"])
    assert "--student_unet is more than --lora_rank 2 can hold: the student keeps" in caplog.text
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
    base = context.family.load_network().state_dict()
    for name in ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1"):
        difference = (unet[f"{name}.weight"] - base[f"{name}.weight"]).flatten(1)
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
        down, up = (context.roles.state_dict("student")[f"{name}.lora_{factor}.weight"].flatten(1) for factor in "AB")
        torch.testing.assert_close(up @ down, left[:, :2] * values[:2] @ right[:2], atol=1e-5, rtol=1e-3)


def test_what_no_adapted_layer_holds_counts_as_lost(make_context, few_step_unet, caplog):
    def shift(unet):
        unet.conv_norm_out.bias.data += 100.0

    make_context(student_unet=few_step_unet(shift), lora_rank=RANK, lora_target_modules=["all"])
    assert float(caplog.text.split("keeps ")[1].split("%")[0]) < 10


@pytest.mark.parametrize("rank", [RANK, 40])
def test_the_fake_score_may_start_as_it_too(make_context, few_step_unet, rank):
    """Also at a rank beyond the width of some layers."""
    settings = {"student_unet": few_step_unet(), "lora_rank": rank, "lora_target_modules": ["all"]}
    context = make_context(**settings, init_fake_from_student=True, no_backtracking=True)
    state = torch.get_rng_state()
    context.distillation(trainer=None).stage_1(checkpoint=None)
    assert torch.equal(torch.get_rng_state(), state)
    fake, student = (context.output(denoiser) for denoiser in (context.networks.fake, context.student.denoiser))
    torch.testing.assert_close(fake, student, atol=1e-4, rtol=1e-3)


def test_the_path_records_which_one_it_was(make_context, few_step_unet):
    context = make_context(student_unet=few_step_unet())
    student = context.sources.student
    first = student.fingerprint(context.student)
    other = make_context(student_unet=few_step_unet(lambda unet: unet.conv_in.weight.data.add_(1)))
    assert student.fingerprint_key == "student_unet"
    assert first and first != other.sources.student.fingerprint(other.student)


@pytest.mark.parametrize(
    "settings, expected",
    [
        (
            {"init_fake_from_student": True, "student": "full"},
            "no effect without --init_lora, or --student_unet of a L",
        ),
        ({"lcm_lora": "x"}, "--lcm_lora and --student_unet are both the student's start"),
    ],
)
def test_what_does_not_fit_together(make_args, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_args(student_unet="unet", **settings)


def test_another_architecture_needs_a_full_student(make_context, small_unet):
    with pytest.raises(
        UsageError, match=r"--student_unet .*has other layers than the teacher's UNet.*a full student can"
    ):
        make_context(student_unet=str(small_unet))
