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


def test_a_parameter_that_no_forward_used_has_no_gradient():
    parameter, learner = make_learner()
    unused = torch.nn.Parameter(torch.ones(1))
    learner.parameters.append(unused)
    learner.accelerator = Two([None])
    learner.backward(parameter.sum())
    assert learner.step().item() == pytest.approx(1)
    assert unused.grad is None and unused.item() == 1


def test_a_parameter_that_only_another_process_used_gets_its_gradient():
    parameter, learner = make_learner(max_grad_norm=100.0)
    learner.accelerator = Two([torch.tensor([4.0])])
    assert learner.step().item() == pytest.approx(2)  # the mean of 0 and 4
    assert parameter.item() == pytest.approx(-0.1 * 2 / 3, rel=1e-3)


class Two:
    """What the learner needs of an accelerator of two processes; the other one's gradients are given."""

    num_processes = 2

    def __init__(self, others):
        self.others = others

    def reduce(self, flat, reduction):
        assert reduction == "mean"
        others = torch.cat([torch.zeros(0) if other is None else other for other in self.others])
        return (flat + torch.nn.functional.pad(others, (0, len(flat) - len(others)))) / 2 if len(others) else flat
