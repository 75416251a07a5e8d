# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students of several steps: which samples they are trained on, and how they generate."""

import json

import pytest
import torch
from diffusers import LCMScheduler
from stepping import backtracking, recording, steps

from disback_diffusers.errors import UsageError
from disback_diffusers.models.batch import generator
from disback_diffusers.models.samplers import FewStep, OneStep, even_timesteps


def between(row, number):
    """The noise before this step of a sample that starts from z = row."""
    return torch.randn(row.shape, generator=generator("step", number, row.numpy().tobytes()))


@torch.no_grad()
def rollout(context, z, conditions, noises):
    """x0 after each step, by diffusers' own scheduler."""
    student, found, x_t = context.student, [], z
    scheduler = LCMScheduler.from_config(context.family.scheduler_config, clip_sample=False, timestep_scaling=1e6)
    scheduler.set_timesteps(timesteps=student.sampler.timesteps)
    for t, noise in zip(scheduler.timesteps, noises):
        output = student.denoiser.output(x_t, t.expand(len(z)), conditions)
        found.append(scheduler.step(output, t, x_t).denoised)
        x_t = context.family.schedule.add_noise(found[-1], noise, scheduler.timesteps[len(found) % len(noises)])
    return found


def test_it_generates_as_the_lcm_scheduler_does(make_context):
    context = make_context(student_steps=3)
    assert context.student.sampler == FewStep(399, (265, 132))
    batch = context.batches.make("check", 1)
    noises = [torch.stack([between(row, number) for row in batch.z]) for number in (1, 2)]
    with torch.no_grad():
        found = context.student(batch.z, batch.conditions)
        alone = context.student(batch.z[1:], batch.conditions[torch.tensor([1])])
    expected = rollout(context, batch.z, batch.conditions, [*noises, noises[0]])
    torch.testing.assert_close(found, expected[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, found[1:], atol=1e-5, rtol=1e-4)  # whatever else is generated with it
    assert (expected[0] - expected[-1]).abs().mean() > 0.01


@pytest.mark.slow
def test_it_is_trained_at_every_step_from_its_own_samples(make_context, monkeypatch):
    context = make_context(timesteps="499,299,99", train_batch_size=12, no_backtracking=True)
    stage, student, schedule = backtracking(context), context.student, context.family.schedule
    batch = context.batches.make(stage.name, 1)
    random = batch.random("steps")
    trained = torch.randint(3, (12,), generator=random)
    noises = [torch.randn(batch.z.shape, generator=random) for _ in range(2)]
    assert set(trained.tolist()) == {0, 1, 2}
    expected = torch.stack(rollout(context, batch.z, batch.conditions, [*noises, noises[0]]))
    found = student.training_samples(batch)
    torch.testing.assert_close(found.detach(), expected[trained, torch.arange(12)], atol=1e-4, rtol=1e-4)
    assert batch.student_t.tolist() == [[499, 299, 99][step] for step in trained]

    evaluations, x0 = [], student.denoiser.x0

    def watched(x_t, t, conditions):
        evaluations.append((torch.is_grad_enabled(), sorted(t.tolist(), reverse=True)))
        return x0(x_t, t, conditions)

    monkeypatch.setattr(student.denoiser, "x0", watched)
    student.training_samples(batch)
    *before, (with_gradient, at_last) = evaluations
    assert with_gradient and len(at_last) == 12 and not any(grad for grad, _ in before)
    assert [len(t) for _, t in before] == [(trained >= 1).sum(), (trained >= 2).sum()]
    assert schedule.time_range == (0, 999)


def test_all_steps_are_as_likely(make_context):
    context, sampler = make_context(student_steps=4), FewStep(399, (299, 199, 99))
    counts = torch.zeros(4)
    for step in range(1, 201):
        random = context.batches.make("backtracking", step, size=8).random("steps")
        counts += torch.bincount(torch.randint(4, (8,), generator=random), minlength=4)
    assert (counts / counts.sum() - 0.25).abs().max() < 0.05 and sampler.steps == 4


@pytest.mark.slow
def test_both_stages_train_on_such_samples(make_context, tmp_path, monkeypatch):
    context = make_context(student_steps=2, max_train_steps=6)
    seen, training_samples = [], context.student.training_samples
    monkeypatch.setattr(context.student, "training_samples", lambda batch: seen.append(1) or training_samples(batch))
    stage = recording(context, tmp_path / "degradation")
    steps(stage, 2)
    assert len(seen) == 2
    before = [value.clone() for value in context.student.parameters()]
    steps(backtracking(context), 2)
    assert len(seen) == 4 and any(not torch.equal(a, b) for a, b in zip(before, context.student.parameters()))


@pytest.mark.parametrize("first, count, expected", [
    (999, 4, [999, 749, 499, 249]), (399, 4, [399, 299, 199, 99]), (399, 3, [399, 265, 132]), (3, 2, [3, 1])
])  # fmt: skip
def test_even_timesteps(first, count, expected):
    assert even_timesteps(first, count) == expected
    if (first + 1) % count == 0:
        scheduler = LCMScheduler(num_train_timesteps=first + 1, original_inference_steps=count)
        scheduler.set_timesteps(count)
        assert scheduler.timesteps.tolist() == expected
    too_many = (first + 1) // 2 + 1
    with pytest.raises(ValueError, match=f"no {too_many} timesteps"):
        even_timesteps(first, too_many)


def test_timesteps_are_given_or_spaced_evenly(make_args):
    for settings in ({"timesteps": "399, 99"}, {"timesteps": [399, 99]}, {"timesteps": "399,99", "student_steps": 2}):
        student = make_args(**settings).student
        assert (student.timesteps, student.student_steps, student.conditioning_timestep) == ("399,99", 2, 399)
    assert make_args(timesteps=599).student.later_timesteps == []
    assert make_args(timesteps="599").student.conditioning_timestep == 599


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"timesteps": "99,399"}, "--timesteps 99,399 must be whole numbers, falling"),
        ({"timesteps": "399,399"}, "--timesteps 399,399 must be"),
        ({"timesteps": "399,0"}, "--timesteps 399,0 must be"),
        ({"timesteps": "399,x"}, "--timesteps 399,x must be"),
        ({"timesteps": "399,99", "student_steps": 4}, "--timesteps 399,99 contradicts --student_steps 4"),
        ({"timesteps": "399,99", "conditioning_timestep": 599}, "contradicts --conditioning_timestep 599"),
        ({"student_steps": 0}, "--student_steps must be a number greater than 0"),
        ({"student_steps": 2, "proportion_later_steps": 0.5, "lcm_lora": "x"}, "--proportion_later_steps is for an"),
    ],
)
def test_timesteps_that_cannot_work(make_args, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_args(**settings)


def test_more_steps_than_timesteps(make_context):
    with pytest.raises(UsageError, match="--student_steps 4: there are no 4 timesteps from 3 down to 1"):
        make_context(student_steps=4, conditioning_timestep=3)
    assert make_context(student_steps=1).student.sampler == OneStep(399)


def test_a_path_of_another_number_of_steps_is_refused(make_context, tmp_path):
    context = make_context(student_steps=2, degradation_steps=2, degradation_nodes=1)
    stage = recording(context, tmp_path / "degradation", nodes=1)
    stage.path.settings = json.loads(json.dumps(context.args.recorded("path")))
    steps(stage, 2)
    stage.finish()
    path = str(tmp_path / "degradation")
    assert make_context(student_steps=2, degradation_path=path).sources.path is not None
    with pytest.raises(UsageError, match="was recorded for --timesteps 399,199, and this run has None"):
        make_context(degradation_path=path)
