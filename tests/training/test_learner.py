# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from accelerate import Accelerator

from disback_diffusers.training.arguments import DistillationArguments
from disback_diffusers.training.learner import Learner


def make_learner(schedule_steps=None, **settings):
    """One parameter at 0. With epsilon 1, Adam's first step on a gradient g is rate * g / (|g| + 1)."""
    args = DistillationArguments("teacher", prompt_dataset="prompts.txt", adam_epsilon=1.0, **settings)
    parameter = torch.nn.Parameter(torch.zeros(1))
    return parameter, Learner([parameter], 0.1, args, Accelerator(cpu=True), schedule_steps)


@pytest.mark.parametrize("gradient, clipped", [(0.5, 0.5), (8.0, 1.0)])
def test_a_step_clips_the_gradient_and_forgets_it(gradient, clipped):
    parameter, learner = make_learner(max_grad_norm=1.0)
    learner.backward(gradient / 2 * parameter.sum())
    learner.backward(gradient / 2 * parameter.sum())  # both count
    assert learner.step().item() == pytest.approx(gradient)
    assert parameter.item() == pytest.approx(-0.1 * clipped / (clipped + 1), rel=1e-3)
    assert parameter.grad is None or parameter.grad.item() == 0


def test_a_restored_learner_goes_on_as_the_first_would():
    histories = []
    for restore in (False, True):
        parameter, learner = make_learner(schedule_steps=6, lr_scheduler="linear", lr_warmup_steps=2)
        history = []
        for step in range(6):
            if restore and step == 3:
                state, value = learner.state_dict(), parameter.detach().clone()
                parameter, learner = make_learner(schedule_steps=6, lr_scheduler="linear", lr_warmup_steps=2)
                learner.load_state_dict(state)
                parameter.data.copy_(value)
            learner.backward((step + 1) * parameter.sum())
            learner.step()
            history.append((parameter.item(), learner.schedule.get_last_lr()[0]))
        histories.append(history)
    assert histories[0] == histories[1]
    assert [rate for _, rate in histories[0]] == pytest.approx([0.05, 0.1, 0.075, 0.05, 0.025, 0])
