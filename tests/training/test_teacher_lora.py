# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Runs whose teacher has a LoRA."""

import pytest
import torch
from tiny_students import lora_student, save_peft

from disback_diffusers import distill
from disback_diffusers.errors import UsageError


@pytest.fixture
def style(sd_folder, tmp_path):
    return str(save_peft(tmp_path / "style", lora_student(sd_folder)))


@torch.no_grad()
def output(denoiser, context):
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return denoiser.output(z, torch.full((2,), 399), context.batches.conditions([0, 1]))


@pytest.mark.parametrize("student", ["lora", "full"])
def test_every_network_starts_from_the_teacher_with_it(make_context, sd_folder, style, student):
    context, plain = make_context(teacher_lora=style, student=student), make_context()
    source = lora_student(sd_folder)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = context.batches.conditions([0, 1]).tensors["text"]
    expected = source.network(z, torch.full((2,), 399), text).sample.detach()
    for denoiser in (context.networks.teacher, context.networks.fake, context.student.denoiser):
        torch.testing.assert_close(output(denoiser, context), expected, atol=1e-4, rtol=1e-3)
    assert (output(plain.networks.teacher, plain) - expected).abs().mean() > 0.01
    assert context.roles.fingerprint != plain.roles.fingerprint, "a path of the bare teacher does not fit"


def test_its_strength(make_context, style):
    outputs = {s: output(make_context(teacher_lora=style, teacher_lora_strength=s).networks.teacher, make_context())
               for s in (1e-6, 0.5, 1.0)}  # fmt: skip
    bare = make_context()
    torch.testing.assert_close(outputs[1e-6], output(bare.networks.teacher, bare), atol=1e-3, rtol=1e-3)
    distances = [(outputs[s] - outputs[1e-6]).norm() for s in (0.5, 1.0)]
    assert 0 < distances[0] < distances[1]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_artifact_has_it_where_the_student_needs_it(make_args, style, student, tmp_path, monkeypatch):
    from disback_diffusers import DisBackPipeline

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = {"no_backtracking": True, "max_train_steps": 1, "validation_steps": 0, "learning_rate": 1e-9}
    folder = distill(make_args(teacher_lora=style, teacher_lora_strength=0.5, student=student, **settings))
    assert (folder / "teacher_lora.safetensors").is_file() == (student == "lora")
    pipe, other = DisBackPipeline.from_pretrained(folder), DisBackPipeline.from_pretrained(
        distill(make_args(student=student, **settings, output_dir=str(tmp_path / "bare"))))  # fmt: skip
    images = [
        p("a cat", generator=torch.Generator().manual_seed(0), output_type="latent").images for p in (pipe, other)
    ]
    assert (images[0] - images[1]).abs().mean() > 0.01
    assert "at strength 0.5" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"teacher_lora_strength": 0.5}, "--teacher_lora_strength has no effect without --teacher_lora"),
        ({"teacher_lora": "./nowhere"}, "--teacher_lora ./nowhere is no LoRA file"),
    ],
)
def test_settings_that_cannot_work(make_context, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_context(**settings)
