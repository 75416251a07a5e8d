# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest
import torch
from stepping import steps

from disback_diffusers import DegradationPath
from disback_diffusers.training.backtracking import DistributionBacktracking
from disback_diffusers.training.degradation import DegradationRecording


@pytest.fixture
def walk(make_context, tmp_path):
    """A function from settings to (context, path, stage 2 at its start), the path being recorded."""

    def make(**settings):
        context = make_context(**settings)
        path = DegradationPath(Path(tmp_path / "path"), context.roles.fingerprint)
        recording = DegradationRecording(context, path, context.args.degradation_nodes)
        steps(recording, recording.total_steps)
        path.load_into(context.roles, len(path) - 1, role="fake")
        return context, path, DistributionBacktracking(context, path)

    return make


def snapshot(roles, name):
    return {key: value.clone() for key, value in roles.state_dict(name).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_targets_are_the_nodes_from_last_but_one_to_the_teacher(walk):
    context, path, stage = walk()
    nodes = {}
    for i in range(1, len(path)):
        path.load_into(context.roles, i)
        nodes[i] = snapshot(context.roles, "target")
    seen = []

    def watch(module, args, kwargs):
        active = context.roles.active
        if active == ("target",):
            seen.append(next(i for i in nodes if same(nodes[i], snapshot(context.roles, "target"))))
        elif active == ():
            seen.append(0)

    context.roles.unet.register_forward_pre_hook(watch, with_kwargs=True)
    steps(stage, 8)
    assert seen == [2, 2, 1, 1, 0, 0, 0, 0]
    assert same(nodes[1], snapshot(context.roles, "target"))  # a node is never trained


@pytest.mark.parametrize("student, expected", [(2.1, [0] * 8), (1.9, [2, 2, 1, 1, 0, 0, 0, 0])])
def test_adaptive_walks_to_a_student_whose_samples_vary_less(walk, student, expected, caplog):
    context, path, _ = walk(node_switching="adaptive")
    path.settings["student_unet"] = "fingerprint"
    path.untrained = {"error": 1.0, "variation": student, "teacher_variation": 2.0}
    stage, nodes = DistributionBacktracking(context, path), []
    with caplog.at_level("INFO"):
        stage.start()
    walked = "No path is needed" if expected[0] == 0 else "The path is walked"
    assert f"{walked}, as the untrained student's samples of one prompt vary by {student}, " in caplog.text
    for step in range(1, 9):
        nodes.append(stage.node)
        steps(stage, 1)
    assert nodes == expected


def test_one_iteration_is_six_forwards_of_work(walk):
    """Student 1, fake 1 for both losses, guided target 2 in one batch, guided fake 1 more; backwards come on top."""
    context, path, stage = walk(guidance_scale=2.0, fake_guidance_scale=1.5)
    stage.start()
    forwards = []

    def watch(module, args, kwargs):
        forwards.append((context.roles.active, len(args[0]), torch.is_grad_enabled()))

    context.roles.unet.register_forward_pre_hook(watch, with_kwargs=True)
    stage.train_step(1)
    assert forwards == [
        (("student",), 2, True),
        (("fake",), 2, True),
        (("fake",), 2, False),
        (("target",), 4, False),
    ]


def test_prompts_are_emptied_for_the_scores_and_not_for_the_student(walk):
    context, path, stage = walk(proportion_empty_prompts=0.999)
    seen = {}

    def watch(module, args, kwargs):
        seen[context.roles.active] = {row.sum().item() for row in kwargs["encoder_hidden_states"]}

    context.roles.unet.register_forward_pre_hook(watch, with_kwargs=True)
    steps(stage, 1)
    empty = context.batches.bank.empty.hidden_states.sum().item()
    assert seen[("fake",)] == seen[("target",)] == {empty} and empty not in seen[("student",)]


@pytest.mark.parametrize("student", ["lora", "full"])
def test_student_and_fake_learn_and_nothing_else_changes(walk, student):
    context, path, stage = walk(student=student)
    roles, base = context.roles, {k: v.clone() for k, v in context.roles.unet.state_dict().items() if "lora" not in k}
    fake = snapshot(roles, "fake")
    first = {k: v.clone() for k, v in context.student.state_dict().items()}
    steps(stage, 4)
    after = roles.unet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in base.items())
    assert not same(fake, snapshot(roles, "fake"))
    trained = context.student.state_dict()
    assert not all(torch.equal(first[key], trained[key]) for key in first)


@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_average_follows_the_student(make_context, student):
    context = make_context(student=student, no_backtracking=True, fake_score_init="random", ema_decay=0.5)
    context.roles.randomize("fake", seed=1)
    stage = DistributionBacktracking(context, None)
    mean = [parameter.detach().clone() for parameter in context.student.parameters()]
    for n in range(3):
        steps(stage, 1)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0  # diffusers lets it rise at first
        mean = [decay * m + (1 - decay) * p.detach() for m, p in zip(mean, context.student.parameters())]
    torch.testing.assert_close(context.student.ema.shadow_params, mean)


def test_without_backtracking_a_fake_score_that_is_the_teacher_moves_nothing(make_context):
    context = make_context(no_backtracking=True, fake_score_learning_rate=1e-30)
    first = {k: v.clone() for k, v in context.student.state_dict().items()}
    stage = DistributionBacktracking(context, None)
    history = steps(stage, 2)
    assert [h["gap"] for h in history] == [0, 0] and stage.node == 0
    assert same(first, context.student.state_dict())


@pytest.mark.parametrize("target, fake", [(2.0, 2.0), (2.0, 1.0), (1.0, 2.0)])
def test_target_and_fake_score_are_guided_by_their_own_scales(make_context, target, fake):
    context = make_context(
        no_backtracking=True, guidance_scale=target, fake_guidance_scale=fake, guidance_max_timestep=999
    )
    (metrics,) = steps(DistributionBacktracking(context, None), 1)  # the fake score is the teacher
    assert (metrics["gap"] > 1e-3) == (target != fake)


def test_the_student_is_drawn_to_the_teacher(make_context):
    """A student that is off in one direction is led back: the score difference points the right way."""
    context = make_context(
        no_backtracking=True, train_batch_size=16, learning_rate=1e-4, fake_score_learning_rate=3e-3
    )
    context.roles.randomize("student", seed=3)
    batch = context.batches.draw("check", 1, samples=64)

    def offset():
        with torch.no_grad():
            x0 = context.student(batch.noise, batch.conditioning)
            with context.roles():
                teacher = context.teacher.sample(context.roles.unet, batch.noise, batch.conditioning, batch.empty, 10)
        return (x0.mean(dim=(0, 2, 3)) - teacher.mean(dim=(0, 2, 3))).norm().item()

    before = offset()
    stage = DistributionBacktracking(context, None)
    steps(stage, 40)
    assert offset() < before


def test_further_updates_of_the_fake_score(make_context):
    context, seen = make_context(no_backtracking=True, fake_score_updates_per_step=3), []
    context.roles.unet.register_forward_pre_hook(
        lambda module, args: seen.append((args[0], args[1])) if context.roles.active == ("fake",) else None
    )
    stage = DistributionBacktracking(context, None)
    steps(stage, 1)
    assert len(seen) == 3
    for (x_t, t), (other_x_t, other_t) in zip(seen, seen[1:]):
        assert not torch.equal(x_t, other_x_t) and not torch.equal(t, other_t)  # each on noise and times of its own
    count = {
        name: next(iter(learner.optimizer.state.values()))["step"].item() for name, learner in stage.learners.items()
    }
    assert count == {"student": 1, "fake": 3}


def test_further_updates_see_all_samples_of_a_step_and_are_reported(make_context):
    metrics = {}
    for updates in (1, 2):
        settings = {"fake_score_updates_per_step": updates, "gradient_accumulation_steps": 3}
        context, seen = make_context(no_backtracking=True, **settings), []
        context.roles.unet.register_forward_pre_hook(
            lambda module, args: seen.append((args[0], args[1])) if context.roles.active == ("fake",) else None
        )
        (metrics[updates],) = steps(DistributionBacktracking(context, None), 1)
        for values in zip(*seen):  # x_t and t of each forward
            assert len({tuple(value.flatten().tolist()) for value in values}) == len(values) == 3 * updates
    assert metrics[1]["loss_student"] == metrics[2]["loss_student"]
    assert metrics[1]["loss_fake"] != metrics[2]["loss_fake"]  # the mean of both updates
    assert metrics[1]["grad_norm_fake"] <= metrics[2]["grad_norm_fake"]


def test_the_schedule_ends_with_the_run_for_both(make_context):
    settings = {"lr_scheduler": "linear", "fake_score_updates_per_step": 2, "max_train_steps": 4}
    stage = DistributionBacktracking(make_context(no_backtracking=True, **settings), None)
    rates = []
    for _ in range(2):
        steps(stage, 2)
        rates.append([learner.schedule.get_last_lr()[0] for learner in stage.learners.values()])
    assert rates == [[pytest.approx(0.5e-3)] * 2, [0, 0]]


def test_the_fake_score_may_have_another_schedule(make_context):
    settings = {"lr_scheduler": "linear", "fake_score_lr_scheduler": "constant", "max_train_steps": 4}
    stage = DistributionBacktracking(make_context(no_backtracking=True, **settings), None)
    steps(stage, 3)
    rates = {name: learner.schedule.get_last_lr() for name, learner in stage.learners.items()}
    assert rates == {"student": [pytest.approx(0.25e-3)], "fake": [1e-3]}


def test_accumulated_batches_make_one_update_of_their_mean_gradient(make_context):
    settings = {"no_backtracking": True, "fake_score_init": "random"}
    stages = []
    for parts in (1, 2):
        context = make_context(gradient_accumulation_steps=parts, **settings)
        context.roles.randomize("fake", seed=1)
        stages.append(DistributionBacktracking(context, None))
    one, both = stages
    expected = {"student": 0.0, "fake": 0.0}
    for part in (0, 1):
        one._student_and_fake_losses(1, part)
        for name, learner in one.learners.items():
            gradients = torch.cat([p.grad.flatten() for p in learner.parameters])
            expected[name] = expected[name] + gradients / 2
            learner.optimizer.zero_grad()
    metrics = both.train_step(1)
    for name, gradient in expected.items():
        assert metrics[f"grad_norm_{name}"].item() == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_guidance_is_applied_to_each_score_with_its_own_scale(walk):
    context, path, stage = walk()
    batch = context.batches.draw("check", 1)
    batch.t = torch.tensor([600, 601])  # one sample at the last guided timestep, one beyond it
    x_t = context.teacher.schedule.add_noise(torch.zeros_like(batch.noise), batch.epsilon, batch.t)
    conditional, empty = (
        context.teacher.schedule.to_x0(stage.forward("fake", x_t, batch.t, c), x_t, batch.t)
        for c in (batch.score_conditioning, batch.empty)
    )
    scale = torch.tensor([2.5, 1.0]).view(2, 1, 1, 1)
    for cached in (None, stage.forward("fake", x_t, batch.t, batch.score_conditioning)):
        guided = stage.guided_x0("fake", x_t, batch, 2.5, cached)
        torch.testing.assert_close(guided, empty + scale * (conditional - empty), rtol=1e-4, atol=1e-4)


def test_roles_share_rank_and_start_as_the_teacher(make_context):
    context = make_context(lora_target_modules=["attention"])
    roles = context.roles
    assert roles.names == ("target", "fake", "student")
    assert {key.split(".lora")[0].split(".")[-1] for key in roles.state_dict("fake")} == {"to_q", "to_k", "to_v", "0"}
    batch = context.batches.draw("check", 1)
    stage = DistributionBacktracking(context, None)
    teacher = stage.forward(None, batch.noise, batch.t, batch.conditioning)
    for name in roles.names:
        torch.testing.assert_close(stage.forward(name, batch.noise, batch.t, batch.conditioning), teacher)
