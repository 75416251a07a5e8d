# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from stepping import backtracking, steps

from disback_diffusers.training.objectives import DistributionMatching, Objective


@pytest.mark.parametrize("target, fake", [(2.0, 2.0), (2.0, 1.0), (1.0, 2.0)])
def test_target_and_fake_score_are_guided_by_their_own_scales(make_context, target, fake):
    context = make_context(
        no_backtracking=True, guidance_scale=target, fake_guidance_scale=fake, guidance_max_timestep=999
    )
    (metrics,) = steps(backtracking(context), 1)  # the fake score is the teacher
    assert (metrics["gap"] > 1e-3) == (target != fake)


def test_guidance_is_applied_up_to_its_last_timestep(make_context):
    context = make_context()
    context.roles.randomize("fake", seed=1)
    fake, schedule = context.networks.fake, context.family.schedule
    objective = DistributionMatching(context.student, fake, context.args.objective)
    batch = context.batches.make("check", 1)
    batch.t = torch.tensor([600, 601])  # one sample at the last guided timestep, one beyond it
    x_t = schedule.add_noise(torch.zeros_like(batch.z), batch.noise, batch.t)
    with torch.no_grad():
        conditional, empty = (fake.x0(x_t, batch.t, c) for c in (batch.score_conditions, batch.empty))
        output = fake.output(x_t, batch.t, batch.score_conditions)
    assert not torch.allclose(conditional, empty, rtol=1e-2, atol=1e-2)
    scale = torch.tensor([2.5, 1.0]).view(2, 1, 1, 1)
    for known in (None, output):
        guided = objective.guided_x0(fake, x_t, batch, 2.5, known)
        torch.testing.assert_close(guided, empty + scale * (conditional - empty), rtol=1e-4, atol=1e-4)


def test_losses_are_of_the_samples_that_the_batch_keeps(make_context):
    """The student's comes after the fake score's, whose graph is freed by then; metrics come last."""
    context = make_context()
    objective = DistributionMatching(context.student, context.networks.fake, context.args.objective)
    objective.target, batch = context.networks.teacher, context.batches.make("check", 1)
    found = []
    for item in objective.losses(batch):
        if isinstance(item, tuple):
            item[1].backward()
        found.append(item)
    (fake, fake_loss), (student, student_loss), metrics = found
    assert (fake, student) == ("fake", "student")
    assert metrics["loss_fake"] == fake_loss and metrics["loss_student"] == student_loss
    assert not any(value.requires_grad for value in (*metrics.values(), batch.samples))
    with torch.no_grad():
        x0 = context.student(batch.z, batch.conditions)
    torch.testing.assert_close(batch.samples, x0)


class ThroughTheFakeScore(Objective):
    """The student's loss is differentiated through the fake score."""

    def losses(self, batch):
        x0 = self.student.training_samples(batch)
        batch.samples = x0.detach()
        loss = self.fake.x0(x0, batch.t, batch.conditions).square().mean()
        yield "student", loss
        yield {"loss_student": loss.detach()}


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_loss_may_be_differentiated_through_another_role(make_context, student, checkpointing):
    context = make_context(no_backtracking=True, student=student, gradient_checkpointing=checkpointing)
    context.roles.randomize("fake", seed=1)
    stage = backtracking(context)
    stage.objective = ThroughTheFakeScore(context.student, context.networks.fake, context.args.objective)
    before = {role: snapshot(context.roles.state_dict(role)) for role in ("fake", "target")}
    first = snapshot(context.student.denoiser.state_dict())
    history = steps(stage, 4)
    assert history[-1]["loss_student"] < history[0]["loss_student"]
    for role, weights in before.items():
        assert all(torch.equal(value, weights[key]) for key, value in context.roles.state_dict(role).items())
    after = context.student.denoiser.state_dict()
    assert sum(not torch.equal(value, first[key]) for key, value in after.items()) > len(first) / 3


def snapshot(state_dict):
    return {key: value.clone() for key, value in state_dict.items()}
