# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students that start as a released LoRA."""

import json

import pytest
import torch
from stepping import backtracking, recording, steps
from tiny_students import RANK, lora_student, save_kohya, save_peft

from disback_diffusers.errors import UsageError


@pytest.fixture
def lora(sd_folder, tmp_path):
    return str(save_kohya(tmp_path / "few-step", lora_student(sd_folder)))


@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_student_starts_as_the_lora(make_context, sd_folder, lora, student):
    context, plain = make_context(init_lora=lora, student=student, lora_rank=RANK), make_context(student=student)
    source = lora_student(sd_folder)
    expected = source.network(
        torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((2,), 399),
        context.batches.conditions([0, 1]).tensors["text"]).sample.detach()  # fmt: skip
    found = context.output(context.student.denoiser)
    assert (found - expected).norm() < 2e-3 * expected.norm()
    assert (plain.output(plain.student.denoiser) - expected).norm() > 0.05 * expected.norm()
    for denoiser in (context.networks.teacher, context.networks.fake):
        torch.testing.assert_close(context.output(denoiser), plain.output(plain.networks.teacher))
    assert all(torch.equal(a, b) for a, b in zip(context.student.ema.shadow_params, context.student.parameters()))


@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_fake_score_may_start_as_it_too(make_context, lora, student, tmp_path):
    settings = {"init_lora": lora, "student": student, "lora_rank": RANK, "init_fake_from_student": True}
    context = make_context(**settings, no_backtracking=True)
    run = context.distillation(trainer=None)
    run.stage_1(checkpoint=None)
    fake, student = (context.output(denoiser) for denoiser in (context.networks.fake, context.student.denoiser))
    torch.testing.assert_close(fake, student, atol=1e-4, rtol=1e-3)


def test_a_smaller_rank_is_said(make_context, lora, caplog):
    make_context(init_lora=lora, lora_rank=2)
    assert "--init_lora is more than --lora_rank 2 can hold: the student keeps" in caplog.text
    caplog.clear()
    make_context(init_lora=lora, lora_rank=RANK)
    assert "can hold" not in caplog.text


@pytest.mark.slow
def test_a_path_of_another_start_is_refused(make_context, sd_folder, lora, tmp_path):
    quick = {"degradation_steps": 2, "degradation_nodes": 1, "lora_rank": RANK}
    context = make_context(init_lora=lora, **quick)
    stage = recording(context, tmp_path / "degradation", nodes=1)
    stage.path.settings = json.loads(json.dumps(context.args.recorded("path")))
    stage.path.settings["init_lora_fingerprint"] = context.sources.student.fingerprint(context.student)
    steps(stage, 2)
    stage.finish()
    path = str(tmp_path / "degradation")
    again = make_context(init_lora=lora, degradation_path=path, **quick)
    steps(backtracking(again, again.sources.path), 1)
    with pytest.raises(UsageError, match="leads to another student: --init_lora is not the same"):
        make_context(degradation_path=path, **quick)
    other = lora_student(sd_folder)
    other.randomize("student", seed=9)
    with pytest.raises(UsageError, match="leads to another student: --init_lora is not the same"):
        make_context(init_lora=str(save_peft(tmp_path / "other", other)), degradation_path=path, **quick)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"init_lora": "x", "lcm_lora": "y"}, "--init_lora and --lcm_lora are both the student's start"),
        ({"init_lora": "x", "student": "full", "student_unet": "y"}, "--init_lora and --student_unet are both"),
        ({"init_fake_from_student": True}, "--init_fake_from_student has no effect without --init_lora"),
        (
            {"init_lora": "x", "init_fake_from_student": True, "fake_score_init": "random"},
            "--init_fake_from_student is a start of the fake score: leave --fake_score_init out",
        ),
        ({"init_lora": "./nowhere"}, "--init_lora ./nowhere is no LoRA file and no folder"),
    ],
)
def test_settings_that_cannot_work(make_context, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_context(**settings)
