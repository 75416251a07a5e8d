# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The student's samples against the teacher's, and the alarms of a run."""

import json
import math

import pytest
import torch

from disback_diffusers import distill
from disback_diffusers.evaluation.health import clipped, grid_power
from disback_diffusers.training.health_probe import HealthProbe


@pytest.fixture
def probe(make_context):
    context = make_context(log_health_every=1, validation_inference_steps=2, guidance_scale=2.0)
    (found,) = context.probes
    return context, found


@torch.no_grad()
def test_it_compares_sixteen_samples_with_the_teachers(probe):
    context, found = probe
    metrics, family, student = found(), context.family, context.student
    assert found.prompts == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 and found.every == 1
    conditions = context.batches.conditions(found.prompts)
    with student.averaged():
        ours = student(found.z, conditions)
    theirs = family.sample(context.networks.teacher, found.z, conditions, context.batches.empty(16), 2, 2.0)

    def varied(x0):
        return torch.stack([x0[4 * k : 4 * k + 4].var(dim=0) for k in range(4)]).mean().sqrt()

    assert metrics["diversity"] == pytest.approx((varied(ours) / varied(theirs)).item(), rel=1e-3)
    assert metrics["contrast"] == pytest.approx((ours.std() / theirs.std()).item(), rel=1e-3)
    images = [family.decode(x0) for x0 in (ours, theirs)]
    assert metrics["saturation"] == pytest.approx(clipped(images[0]) - clipped(images[1]), abs=1e-3)
    powers = [grid_power(image, family.vae_scale_factor) for image in images]
    assert metrics["grid"] == pytest.approx(powers[0] / powers[1], rel=1e-2)
    assert found() == metrics, "the same z each time"


def test_the_teacher_is_sampled_once(probe, monkeypatch):
    context, found = probe
    calls, sample = [], context.family.sample
    monkeypatch.setattr(context.family, "sample", lambda *args: calls.append(1) or sample(*args))
    found(), found()
    assert len(calls) == 16


def test_the_average_is_measured(probe):
    context, found = probe
    before = found()
    for parameter in context.student.parameters():
        parameter.data += 0.3
    assert found() == before
    for shadow in context.student.ema.shadow_params:
        shadow += 0.3
    assert found()["contrast"] != before["contrast"]


def test_samples_that_are_no_numbers(probe):
    context, found = probe
    for shadow in context.student.ema.shadow_params:
        shadow.fill_(math.nan)
    assert all(math.isnan(value) for value in found().values())


def test_a_teacher_whose_samples_are_no_numbers(probe, monkeypatch):
    context, found = probe
    monkeypatch.setattr(context.family, "sample", lambda teacher, z, *args: z * math.nan)
    assert all(math.isnan(value) for value in found().values())
    found._teacher = {"variation": 0.0, "clipped": 0.0, "contrast": 0.0, "grid": 0.0}  # samples of one colour
    assert math.isnan(found()["diversity"])


@pytest.mark.slow
def test_an_alarm_is_a_line_and_is_in_the_log(make_args, monkeypatch, caplog):
    """A student that becomes ever more alike; the run is stopped in between, and resumed."""
    caplog.set_level("INFO")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    values = {"diversity": 0.7, "saturation": 0.0, "contrast": 1.0}

    def measure(self):
        values["diversity"] -= 0.15
        return dict(values)

    monkeypatch.setattr(HealthProbe, "__call__", measure)
    settings = {"log_health_every": 1, "no_backtracking": True, "validation_steps": 0, "checkpointing_steps": 1}
    distill(make_args(**settings, max_train_steps=4))
    assert "Alarm" not in caplog.text  # 0.55, 0.4, 0.25, 0.1
    folder = distill(make_args(**settings, max_train_steps=6, resume_from_checkpoint="latest"))
    assert caplog.text.count("Alarm at update 5: diversity is -0.05, usual is 0.3 to 2.5") == 1
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["alarms"] for line in lines] == [[], [], [], [], ["diversity"], ["diversity"]]
    assert all({"relative_gap", "score_cosine", "score_ratio"} <= line.keys() for line in lines)
