# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What --dry_run computes, against a run's own tensors."""

import pytest
import torch
from safetensors.torch import load_file

from disback_diffusers.models.teachers import StableDiffusionTeacher, StableDiffusionXLTeacher
from disback_diffusers.training.activations import saved_bytes
from disback_diffusers.training.arguments import DistillationArguments
from disback_diffusers.training.plan import activations, count_parameters, meta_roles, meta_student, plan, weights
from disback_diffusers.training.setup import make_accelerator


class Chain(torch.nn.Module):
    """Three linear layers of 8 on (n, 8): each keeps its input for its weight's gradient, 4 n 8 bytes."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))

    def forward(self, x):
        return self.layers(x)


def test_saved_bytes_are_those_of_autograd():
    with torch.device("meta"):
        chain, x = Chain(), torch.zeros(5, 8)
        assert saved_bytes(chain, {"x": x}) == (3 * 5 * 8 * 4, 0)  # the weights are there anyway, and not counted
        chain.layers[0].requires_grad_(False)
        assert saved_bytes(chain, {"x": x}) == (2 * 5 * 8 * 4, 0)


class Fork(torch.nn.Module):
    """Two layers on one input, which both keep."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.left(x) + self.right(x)


def test_what_two_layers_keep_counts_once():
    with torch.device("meta"):
        assert saved_bytes(Fork(), {"x": torch.zeros(5, 8)}) == (5 * 8 * 4, 0)


@pytest.mark.parametrize("student", ["lora", "full", "small"])
def test_parameters_and_weights_are_those_of_a_run(make_context, small_unet, student):
    settings = {"student": "full", "student_unet": str(small_unet)} if student == "small" else {"student": student}
    context = make_context(**settings)
    rows = dict(plan(context.args, context.teacher, 5, context.accelerator))
    lora = sum(p.numel() for p in context.roles.parameters("fake"))
    own = 0 if student == "lora" else sum(p.numel() for p in context.student.parameters())
    base = sum(p.numel() for p in context.teacher.load_unet().parameters())
    assert f"{base / 1e6:,.1f} M" in rows["teacher"] and f"{lora / 1e6:,.1f} M" in rows["adapters"]
    sizes = weights(context.args, base, lora, own, len(context.roles.names), torch.float32)
    assert sizes["base, frozen"] + sizes["adapters"] == 4 * sum(p.numel() for p in context.roles.unet.parameters())
    assert sizes["student UNet"] == 4 * own
    assert student == "lora" or count_parameters(meta_student(context.args, context.teacher)) == own
    assert sizes["moving average"] == 4 * sum(p.numel() for p in context.student.ema.shadow_params)
    trained = sum(p.numel() for p in context.student.parameters()) + lora
    assert sizes["gradients"] == 4 * trained and sizes["optimizers"] == 8 * trained
    half = weights(context.args, base, lora, own, len(context.roles.names), torch.bfloat16)
    assert half["its copy in lower precision"] == 2 * own  # as autocast makes


def test_a_smaller_student_keeps_less(make_context, small_unet):
    kept = []
    for settings in ({}, {"student_unet": str(small_unet)}):
        context = make_context(student="full", **settings)
        unet, roles = meta_roles(context.args, context.teacher, torch.float32)
        kept.append(activations(context.args, context.teacher, unet, roles, torch.float32)["activations"])
    assert 0 < kept[1] < kept[0]


def test_text_encoders_count_where_they_stay(sd_folder, sdxl_folder, tmp_path):
    for cls, folder, parts in (
        (StableDiffusionTeacher, sd_folder, ["text_encoder"]),
        (StableDiffusionXLTeacher, sdxl_folder, ["text_encoder", "text_encoder_2"]),
    ):
        size = sum(
            value.numel() for part in parts for value in load_file(folder / part / "model.safetensors").values()
        )
        assert cls(str(folder)).count_text_parameters() == size
        rows = {}
        for cache in ("off", "memory"):
            args = DistillationArguments(
                str(folder), prompt_dataset="p", output_dir=str(tmp_path), cache_text_embeddings=cache
            )
            rows[cache] = plan(args, cls(str(folder)), 5, make_accelerator(args))
        assert any("text encoders" in text for _, text in rows["off"])
        assert not any("text encoders" in text for _, text in rows["memory"])


def test_activations_grow_and_shrink_as_they_should(sd_folder, sdxl_folder, tmp_path):
    def peak(teacher, **settings):
        args = DistillationArguments("t", prompt_dataset="p", lora_rank=4, **{"train_batch_size": 1, **settings})
        unet, roles = meta_roles(args, teacher, torch.float32)
        return activations(args, teacher, unet, roles, torch.float32)["activations"]

    for teacher in (StableDiffusionTeacher(str(sd_folder)), StableDiffusionXLTeacher(str(sdxl_folder))):
        one = peak(teacher, resolution=["32"])
        assert peak(teacher, resolution=["32"], train_batch_size=2) == pytest.approx(2 * one, rel=0.05)
        assert peak(teacher, resolution=["32", "64x32"]) == peak(teacher, resolution=["64x32"]) > 1.8 * one
        assert peak(teacher, resolution=["32"], gradient_checkpointing=True) < 0.7 * one
        assert peak(teacher, resolution=["32"], student="full") != one  # a LoRA keeps its own intermediate results


def test_the_verdict_without_a_gpu(sd_folder, tmp_path):
    args = DistillationArguments(str(sd_folder), prompt_dataset="p", output_dir=str(tmp_path))
    rows = plan(args, StableDiffusionTeacher(str(sd_folder)), 5, make_accelerator(args))
    assert rows[-1][0] == "GPU" and "computed, not measured" in rows[-2][1]
