# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from accelerate import Accelerator
from stepping import backtracking

from disback_diffusers.training.optimizers import RoleOptimizer
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.settings import OptimizationArguments


def make_optimizer(schedule_steps=None, precision="no", others=(), kind=None, **settings):
    """One parameter at 0, and others. With epsilon 1, Adam's first step on a gradient g is rate * g / (|g| + 1)."""
    parameter, parallel = torch.nn.Parameter(torch.zeros(1)), Replicated(Accelerator(cpu=True))
    parallel.precision = precision
    settings = OptimizationArguments(adam_epsilon=1.0, **settings)
    return parameter, RoleOptimizer([parameter, *others], 0.1, settings, parallel, schedule_steps, kind=kind)


@pytest.mark.parametrize("precision", ["no", "fp16"])
@pytest.mark.parametrize("gradient, clipped", [(0.5, 0.5), (8.0, 1.0)])
def test_a_step_clips_the_gradient_and_forgets_it(gradient, clipped, precision):
    parameter, optimizer = make_optimizer(precision=precision, max_grad_norm=1.0)
    optimizer.backward(gradient / 2 * parameter.sum())
    optimizer.backward(gradient / 2 * parameter.sum())  # both count
    assert optimizer.step().item() == pytest.approx(gradient)
    assert parameter.item() == pytest.approx(-0.1 * clipped / (clipped + 1), rel=1e-3)
    assert parameter.grad is None or parameter.grad.item() == 0


@pytest.mark.parametrize("kind, moved", [("adamw", 0.5 / 1.5), ("adam", 0.5 / 1.5), ("sgd", 0.5)])
def test_kinds_of_optimizers(kind, moved):
    parameter, optimizer = make_optimizer(kind=kind)
    optimizer.backward(0.5 * parameter.sum())
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.1 * moved, rel=1e-5)


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_role_without_a_loss_stays_as_it_is(precision, recwarn):
    parameter, optimizer = make_optimizer(precision=precision, schedule_steps=6, lr_scheduler="linear")
    assert optimizer.step().item() == 0 and parameter.item() == 0
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


def test_a_restored_optimizer_goes_on_as_the_first_would():
    histories = []
    for restore in (False, True):
        parameter, optimizer = make_optimizer(schedule_steps=6, lr_scheduler="linear", lr_warmup_steps=2)
        history = []
        for step in range(6):
            if restore and step == 3:
                state, value = optimizer.state_dict(), parameter.detach().clone()
                parameter, optimizer = make_optimizer(schedule_steps=6, lr_scheduler="linear", lr_warmup_steps=2)
                optimizer.load_state_dict(state)
                parameter.data.copy_(value)
            optimizer.backward((step + 1) * parameter.sum())
            optimizer.step()
            history.append((parameter.item(), optimizer.schedule.get_last_lr()[0]))
        histories.append(history)
    assert histories[0] == histories[1]
    assert [rate for _, rate in histories[0]] == pytest.approx([0.05, 0.1, 0.075, 0.05, 0.025, 0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(value):
    other = torch.nn.Parameter(torch.ones(3))
    parameter, optimizer = make_optimizer(others=[other])
    optimizer.backward(value * parameter.sum() + other.sum())
    assert not optimizer.step().isfinite()  # which the trainer finds
    assert parameter.item() == 0 and other.tolist() == [1, 1, 1]
    optimizer.backward(parameter.sum())
    optimizer.step()
    assert -0.1 < parameter.item() < 0  # neither have the moments of Adam kept it


def test_with_fp16_the_scaler_leaves_such_an_update_out_and_scales_less():
    parameter, optimizer = make_optimizer(precision="fp16")
    scale = optimizer.scaler.get_scale()
    optimizer.backward(math.inf * parameter.sum())
    optimizer.step()
    assert parameter.item() == 0 and not optimizer.optimizer.state and optimizer.scaler.get_scale() == scale / 2


# ---------------------------------------------------------------------------------------------------------------------
# Whose gradients


def gradients(context, role):
    """Of a loss on the student's samples that goes through the fake score, for one of the two."""
    stage, batch = backtracking(context), context.batches.make("check", 1)
    x0 = context.student.training_samples(batch)
    stage.optimizers[role].backward(context.networks.fake.x0(x0, batch.t, batch.conditions).square().mean())
    return [parameter.grad for parameter in stage.optimizers[role].parameters]


def expected(context, role):
    """The same by autograd alone, without roles that are switched in between."""
    batch, fake = context.batches.make("check", 1), context.networks.fake
    x0 = context.student(batch.z, batch.conditions)
    loss = fake.x0(x0 if role == "student" else x0.detach(), batch.t, batch.conditions).square().mean()
    return torch.autograd.grad(loss, (context.student if role == "student" else fake).parameters())


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
@pytest.mark.parametrize("role", ["student", "fake"])
def test_backward_reaches_its_own_parameters_alone(make_context, student, role):
    found = []
    for checkpointing in (False, True):
        context = make_context(student=student, no_backtracking=True, gradient_checkpointing=checkpointing)
        roles, network = context.roles, context.student.denoiser.network
        assert roles.network.is_gradient_checkpointing == network.is_gradient_checkpointing == checkpointing
        for seed, name in enumerate(roles.names):  # no zero hides a gradient
            roles.randomize(name, seed)
        own = gradients(context, role)
        assert all(gradient.any() for gradient in own)
        kept = {id(gradient) for gradient in own}
        for parameter in [*roles.network.parameters(), *context.student.parameters()]:
            assert parameter.grad is None or id(parameter.grad) in kept
        found.append(own)
        if not checkpointing:
            torch.testing.assert_close(own, list(expected(context, role)))
    torch.testing.assert_close(found[0], found[1])
