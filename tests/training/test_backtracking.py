# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json
import math
from dataclasses import replace

import pytest
import torch
from stepping import backtracking, recording, steps

from disback_diffusers.errors import UsageError


@pytest.fixture
def walk(make_context, tmp_path):
    """A function from settings to (context, path, stage 2 at its start), the path being recorded."""

    def make(**settings):
        context = make_context(**settings)
        stage = recording(context, tmp_path / "path")
        steps(stage, stage.total_steps)
        stage.path.load_into(context.roles, len(stage.path) - 1, role="fake")
        return context, stage.path, backtracking(context, stage.path)

    return make


def snapshot(state_dict):
    return {key: value.clone() for key, value in state_dict.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def inputs_of_the_fake_score(context):
    """A list that each forward of the fake score adds its x_t and t to."""
    seen = []
    context.roles.network.register_forward_pre_hook(
        lambda module, args: seen.append((args[0], args[1])) if context.roles.active == ("fake",) else None
    )
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# Targets


@pytest.mark.slow
def test_targets_are_the_nodes_from_last_but_one_to_the_teacher(walk):
    context, path, stage = walk()
    nodes = {}
    for i in range(1, len(path)):
        path.load_into(context.roles, i)
        nodes[i] = snapshot(context.roles.state_dict("target"))
    seen = []

    def watch(module, args, kwargs):
        active = context.roles.active
        if active == ("target",):
            seen.append(next(i for i in nodes if same(nodes[i], context.roles.state_dict("target"))))
        elif active == ():
            seen.append(0)

    context.roles.network.register_forward_pre_hook(watch, with_kwargs=True)
    steps(stage, 8)
    assert seen == [2, 2, 1, 1, 0, 0, 0, 0]
    assert same(nodes[1], context.roles.state_dict("target"))  # a node is never trained


@pytest.mark.slow
@pytest.mark.parametrize("student, expected", [(2.1, [0] * 8), (1.9, [2, 2, 1, 1, 0, 0, 0, 0])])
def test_adaptive_walks_to_a_student_whose_samples_vary_less(walk, student, expected, caplog):
    context, path, _ = walk(node_switching="adaptive")
    path.untrained = {"error": 1.0, "teacher_error": 0.1, "variation": student, "teacher_variation": 2.0}
    with caplog.at_level("INFO"):
        stage, nodes = backtracking(context, path), []
    walked = "The path is not walked" if expected[0] == 0 else "The path is walked"
    assert f"{walked}, as the untrained student's samples of one prompt vary by {student}, " in caplog.text
    stage.start()
    for _ in range(8):
        nodes.append(stage.node)
        steps(stage, 1)
    assert nodes == expected


@pytest.mark.slow
def test_a_path_of_one_node_is_not_said_to_be_walked(walk, caplog):
    context, path, _ = walk(node_switching="adaptive")
    path.untrained = {"error": 1.0, "teacher_error": 0.1, "variation": 1.9, "teacher_variation": 2.0}
    del path.nodes[2:]
    with caplog.at_level("INFO"):
        assert context.distillation(None).walk(path).numbers == [0]
    assert "The path is not walked, as it has one node" in caplog.text and "vary" not in caplog.text


@pytest.mark.slow
def test_without_backtracking_a_path_is_not_walked(walk):
    context, path, _ = walk(no_backtracking=True, fake_score_init="fit")
    stage = backtracking(context, path)
    assert (stage.walk.numbers, stage.path) == ([0], None)


@pytest.mark.slow
def test_a_walk_goes_on_where_a_checkpoint_was_saved(walk):
    context, path, stage = walk(steps_per_node=3)
    steps(stage, 4)
    state = json.loads(json.dumps(stage.state()))
    context.args.path.steps_per_node = 1  # as where `auto` has become another number
    other = backtracking(context, path)
    other.load_state(state)
    for node in (1, 1, 0):  # one of the three updates at node 1 is done
        assert other.node == stage.node == node
        stage.walk.advance(), other.walk.advance()
    context.args.optimization.max_train_steps = 6
    with pytest.raises(UsageError, match="--max_train_steps 6 leaves no step .* this run began with 2 x 3 updates"):
        backtracking(context, path).load_state(state)
    context.args.optimization.max_train_steps = 8
    del state["switch"]["steps_per_node"]  # as version 0.1 saved it
    older = backtracking(context, path)
    older.load_state(state)
    assert (older.node, older.walk.node_step, older.walk.steps_per_node) == (1, 1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# One update


@pytest.mark.slow
def test_one_iteration_is_six_forwards_of_work(walk):
    """Student 1, fake 1 for both losses, guided target 2 in one batch, guided fake 1 more; backwards come on top."""
    context, path, stage = walk(guidance_scale=2.0, fake_guidance_scale=1.5)
    stage.start()
    forwards = []

    def watch(module, args, kwargs):
        forwards.append((context.roles.active, len(args[0]), torch.is_grad_enabled()))

    context.roles.network.register_forward_pre_hook(watch, with_kwargs=True)
    stage.train_step(1)
    assert forwards == [
        (("student",), 2, True),
        (("fake",), 2, True),
        (("fake",), 2, False),
        (("target",), 4, False),
    ]


@pytest.mark.slow
def test_prompts_are_emptied_for_the_scores_and_not_for_the_student(walk):
    context, path, stage = walk(proportion_empty_prompts=0.999)
    seen = {}

    def watch(module, args, kwargs):
        seen[context.roles.active] = {row.sum().item() for row in kwargs["encoder_hidden_states"]}

    context.roles.network.register_forward_pre_hook(watch, with_kwargs=True)
    steps(stage, 1)
    empty = context.batches.bank.empty.tensors["text"].sum().item()
    assert seen[("fake",)] == seen[("target",)] == {empty} and empty not in seen[("student",)]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
def test_student_and_fake_learn_and_nothing_else_changes(walk, student):
    context, path, stage = walk(student=student)
    roles, network = context.roles, context.roles.network
    base = snapshot({key: value for key, value in network.state_dict().items() if "lora" not in key})
    fake, first = snapshot(roles.state_dict("fake")), snapshot(context.student.denoiser.state_dict())
    steps(stage, 4)
    after = network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in base.items())
    assert not same(fake, roles.state_dict("fake"))
    assert not same(first, context.student.denoiser.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_average_follows_the_student(make_context, student):
    context = make_context(student=student, no_backtracking=True, fake_score_init="random", ema_decay=0.5)
    context.roles.randomize("fake", seed=1)
    stage = backtracking(context)
    mean = [parameter.detach().clone() for parameter in context.student.parameters()]
    for n in range(3):
        steps(stage, 1)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0  # diffusers lets it rise at first
        mean = [decay * m + (1 - decay) * p.detach() for m, p in zip(mean, context.student.parameters())]
    torch.testing.assert_close(context.student.ema.shadow_params, mean)


def test_without_backtracking_a_fake_score_that_is_the_teacher_moves_nothing(make_context):
    context = make_context(no_backtracking=True, fake_score_learning_rate=1e-30)
    first = snapshot(context.student.denoiser.state_dict())
    stage = backtracking(context)
    history = steps(stage, 2)
    assert [metrics["gap"] for metrics in history] == [0, 0] and stage.node == 0
    assert same(first, context.student.denoiser.state_dict())


@pytest.mark.slow
def test_the_student_is_led_to_the_teacher(make_context):
    """A student that is off in one direction is led back: the score difference points the right way."""
    context = make_context(
        no_backtracking=True, train_batch_size=16, learning_rate=1e-4, fake_score_learning_rate=3e-3
    )
    context.roles.randomize("student", seed=3)
    batch = context.batches.make("check", 1, size=64)
    teacher = context.family.sample(context.networks.teacher, batch.z, batch.conditions, batch.empty, 10)

    def offset():
        with torch.no_grad():
            x0 = context.student(batch.z, batch.conditions)
        return (x0.mean(dim=(0, 2, 3)) - teacher.mean(dim=(0, 2, 3))).norm().item()

    before = offset()
    steps(backtracking(context), 40)
    assert offset() < before


@pytest.mark.parametrize("student", ["lora", "full"])
def test_values_that_are_not_finite_reach_no_weights(make_context, student):
    context = make_context(student=student, no_backtracking=True, ema_decay=0.5)
    stage, make = backtracking(context), context.batches.make
    steps(stage, 2)
    first, fake = snapshot(context.student.denoiser.state_dict()), snapshot(context.roles.state_dict("fake"))

    def broken(*args):
        batch = make(*args)
        return replace(batch, z=batch.z * math.nan)

    context.batches.make = broken
    (metrics,) = steps(stage, 1)
    assert all(math.isnan(metrics[name]) for name in ("loss_student", "grad_norm_student", "grad_norm_fake"))
    context.batches.make = make
    steps(stage, 1)
    trained, average = context.student.denoiser.state_dict(), context.student.ema.shadow_params
    assert not same(trained, first) and not same(fake, context.roles.state_dict("fake"))
    for weights in (trained.values(), average, context.roles.state_dict("fake").values()):
        assert all(value.isfinite().all() for value in weights)


# ---------------------------------------------------------------------------------------------------------------------
# Several micro-batches and several updates of the fake score


def test_further_updates_of_the_fake_score(make_context):
    context = make_context(no_backtracking=True, fake_score_updates_per_step=3)
    seen, stage = inputs_of_the_fake_score(context), backtracking(context)
    steps(stage, 1)
    assert len(seen) == 3
    for (x_t, t), (other_x_t, other_t) in zip(seen, seen[1:]):
        assert not torch.equal(x_t, other_x_t) and not torch.equal(t, other_t)  # each on noise and times of its own
    count = {
        role: next(iter(optimizer.optimizer.state.values()))["step"].item()
        for role, optimizer in stage.optimizers.items()
    }
    assert count == {"student": 1, "fake": 3}


@pytest.mark.slow
def test_further_updates_see_all_samples_of_a_step_and_are_reported(make_context):
    metrics = {}
    for updates in (1, 2):
        settings = {"fake_score_updates_per_step": updates, "gradient_accumulation_steps": 3}
        context = make_context(no_backtracking=True, **settings)
        seen = inputs_of_the_fake_score(context)
        (metrics[updates],) = steps(backtracking(context), 1)
        for values in zip(*seen):  # x_t and t of each forward
            assert len({tuple(value.flatten().tolist()) for value in values}) == len(values) == 3 * updates
    assert metrics[1]["loss_student"] == metrics[2]["loss_student"]
    assert metrics[1]["loss_fake"] != metrics[2]["loss_fake"]  # the mean of both updates
    assert metrics[1]["grad_norm_fake"] <= metrics[2]["grad_norm_fake"]


def test_the_schedule_ends_with_the_run_for_both(make_context):
    settings = {"lr_scheduler": "linear", "fake_score_updates_per_step": 2, "max_train_steps": 4}
    stage = backtracking(make_context(no_backtracking=True, **settings))
    rates = []
    for _ in range(2):
        steps(stage, 2)
        rates.append([optimizer.schedule.get_last_lr()[0] for optimizer in stage.optimizers.values()])
    assert rates == [[pytest.approx(0.5e-3)] * 2, [0, 0]]


def test_the_fake_score_may_have_another_schedule(make_context):
    settings = {"lr_scheduler": "linear", "fake_score_lr_scheduler": "constant", "max_train_steps": 4}
    stage = backtracking(make_context(no_backtracking=True, **settings))
    steps(stage, 3)
    rates = {role: optimizer.schedule.get_last_lr() for role, optimizer in stage.optimizers.items()}
    assert rates == {"student": [pytest.approx(0.25e-3)], "fake": [1e-3]}


def test_micro_batches_make_one_update_of_their_mean_gradient(make_context):
    settings = {"no_backtracking": True, "fake_score_init": "random"}
    stages = []
    for count in (1, 2):
        context = make_context(gradient_accumulation_steps=count, **settings)
        context.roles.randomize("fake", seed=1)
        stages.append(backtracking(context))
        stages[-1].start()
    one, both = stages
    expected = {"student": 0.0, "fake": 0.0}
    for index in (0, 1):
        one._backward(one.objective.losses(one.batches.make(one.name, 1, index)), one.optimizers)
        for role, optimizer in one.optimizers.items():
            gradients = torch.cat([parameter.grad.flatten() for parameter in optimizer.parameters])
            expected[role] = expected[role] + gradients / 2
            optimizer.optimizer.zero_grad()
    metrics = both.train_step(1)
    for role, gradient in expected.items():
        assert metrics[f"grad_norm_{role}"].item() == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_roles_share_rank_and_start_as_the_teacher(make_context):
    context = make_context(lora_target_modules=["attention"])
    roles, networks = context.roles, context.networks
    assert roles.names == ("target", "fake", "student")
    assert {key.split(".lora")[0].split(".")[-1] for key in roles.state_dict("fake")} == {"to_q", "to_k", "to_v", "0"}
    batch = context.batches.make("check", 1)
    given = batch.z, batch.t, batch.conditions
    expected = networks.teacher.output(*given)
    for denoiser in (networks.target, networks.fake, context.student.denoiser):
        torch.testing.assert_close(denoiser.output(*given), expected)
