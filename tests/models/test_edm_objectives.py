# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Objectives with pixel-space teachers: real images with labels or without, pairs by Heun's method."""

import json

import pytest
import torch
from real_images import save_folder, save_parquet
from tiny_edm import save_teacher

from disback_diffusers import DistillationArguments, UsageError, distill
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import open_teacher


QUICK = {"degradation_steps": 2, "degradation_nodes": 2, "steps_per_node": 1, "max_train_steps": 3, "lora_rank": 2,
         "train_batch_size": 4, "validation_steps": 0, "validation_inference_steps": 3}  # fmt: skip
CLASSES = {"kind": "ours", "classes": 4, "empty": 4}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function from a teacher and settings to the lines of the log of stage 2."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(teacher, **settings):
        teacher = save_teacher(tmp_path / "teacher", **teacher)
        args = {"pretrained_teacher_model": teacher, "output_dir": str(tmp_path / "run"), **QUICK, **settings}
        folder = distill(DistillationArguments(**args))
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if line["stage"] == "backtracking"]

    return run


@pytest.fixture
def labelled(tmp_path):
    return save_parquet(tmp_path / "images.parquet", size=(8, 8), label=[0, 1, 2, 3, 3, 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective, kind",
    [*(("gan", kind) for kind in ("edm", "ours", "ddpm")),  # each with another mid block
     *(("dmd_regression", kind) for kind in ("edm", "ddpm")),  # each with another sampler
     ("sid", "edm")],
)  # fmt: skip
def test_unconditional_teachers(run, tmp_path, kind, objective):
    settings = {
        "gan": {"real_images": save_folder(tmp_path / "real", size=(12, 8))},  # their captions have no effect
        "dmd_regression": {"teacher_pairs": 16, "teacher_pairs_steps": 3},
    }
    lines = run({"kind": kind}, objective=objective, **settings.get(objective, {}))
    assert len(lines) == 3 and all(abs(line["loss_student"]) < 1e3 for line in lines)
    expected = {"gan": "loss_discriminator", "dmd_regression": "loss_regression", "sid": "gap"}[objective]
    assert all(line[expected] > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["gan", "fdiv"])
def test_labels_are_the_captions_of_a_class_conditional_teacher(run, labelled, objective):
    lines = run(CLASSES, objective=objective, real_images=labelled, guidance_scale=2.0)
    assert all(0 < line["loss_discriminator"] < 10 for line in lines)


@pytest.mark.parametrize(
    "teacher, settings, expected",
    [
        (CLASSES, {"labels": [0, 4]}, "has the label '4', and the teacher 4 classes"),
        (CLASSES, {"labels": ["cat", "dog"]}, "has the label 'cat', and the teacher 4 classes"),
        (
            {"kind": "edm", "classes": 4},
            {},
            "has no 'label' of its images: this teacher has no empty class, which could stand for a missing one",
        ),
        ({"kind": "edm"}, {"student_steps": 2}, "--student_steps is not supported for this kind of teacher"),
        ({"kind": "edm"}, {"timesteps": "399"}, "--timesteps is not supported for this kind of teacher"),
        ({"kind": "edm"}, {"init_lora": "x"}, "--init_lora is not supported for this kind of teacher"),
        ({"kind": "edm"}, {"teacher_lora": "x"}, "--teacher_lora is not supported for this kind of teacher"),
        ({"kind": "edm"}, {"negative_prompt": "x"}, "--negative_prompt: this teacher is not conditioned on prompts"),
        (
            CLASSES,
            {"guidance_rule": "decoupled", "guidance_scale": 2.0},
            "--guidance_rule decoupled: this teacher has noise levels and no timesteps",
        ),
    ],
)
def test_what_cannot_work(run, tmp_path, teacher, settings, expected):
    settings = dict(settings)
    if "labels" in settings:
        images = save_parquet(tmp_path / "x.parquet", size=(8, 8), label=settings.pop("labels"))
        settings |= {"objective": "gan", "real_images": images}
    elif teacher.get("classes") and not settings:
        settings = {"objective": "gan", "real_images": save_parquet(tmp_path / "x.parquet", size=(8, 8))}
    with pytest.raises(UsageError, match=expected):
        run(teacher, **settings)


@pytest.mark.parametrize("kind", ["edm", "ours"])
@torch.no_grad()
def test_the_features_are_those_between_both_halves(tmp_path, kind):
    """As wide as the family says; the second half does not run for them alone."""
    family = open_teacher(save_teacher(tmp_path, kind))
    network = family.load_network()
    denoiser, seen = Denoiser(family, network, family.schedule), []
    last = network.decoder if kind == "ours" else network.conv_out
    for module in last if kind == "ours" else [last]:
        (module["blocks"][0] if kind == "ours" else module).register_forward_hook(lambda *args: seen.append(1))
    given = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0]), Conditions(rows=2)
    features = denoiser.features(*given)
    assert features.shape == (2, family.bottleneck_channels, 4, 4) and seen == []
    output, same = denoiser.output_and_features(*given)
    torch.testing.assert_close(features, same)
    torch.testing.assert_close(output, denoiser.output(*given))
    assert seen and not family.bottleneck(network)._forward_hooks


def test_images_and_samples_are_the_same_to_and_fro(tmp_path):
    family = open_teacher(save_teacher(tmp_path, "edm"))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(family.decode(family.encode(images)), images)
    assert family.image_size((3, 8, 16)) == (8, 16)
