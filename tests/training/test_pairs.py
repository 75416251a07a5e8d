# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Pairs of noise and the teacher's sample, and what is trained on them."""

import pytest
import torch
from diffusers import DDIMScheduler
from stepping import backtracking, steps

from disback_diffusers.errors import RunError, UsageError
from disback_diffusers.models.batch import generator
from disback_diffusers.training.objectives.regression import regression_loss
from disback_diffusers.training.pairs import CHUNK, TeacherPairs
from disback_diffusers.training.warmup import RegressionWarmup


def make_pairs(context, folder, count=CHUNK, steps=2, guidance=1.0):
    return TeacherPairs(folder, *context.parts, count, steps, guidance)


@pytest.fixture
def paired(make_context, tmp_path):
    """A function from settings to a context whose batches draw pairs."""

    def make(**settings):
        context = make_context(**settings)
        pairs = make_pairs(context, tmp_path / "pairs")
        pairs.generate()
        context.batches.draw_pairs = pairs.draw
        return context

    return make


@torch.no_grad()
def by_hand(context, z, conditions, count, guidance):
    """The teacher's sample of z, by DDIM in a loop of our own."""
    teacher, batches = context.networks.teacher, context.batches
    scheduler, x = DDIMScheduler.from_config(context.family.scheduler_config), z
    scheduler.set_timesteps(count)
    for t in scheduler.timesteps:
        given, empty = (teacher.output(x, t.expand(len(z)), c) for c in (conditions, batches.empty(len(z))))
        x = scheduler.step(empty + guidance * (given - empty), t, x).prev_sample
    return x


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_pair_is_noise_and_the_teachers_sample_of_it(make_context, tmp_path, guidance):
    context = make_context()
    pairs = make_pairs(context, tmp_path, steps=3, guidance=guidance)
    pairs.generate()
    pair = pairs.draw(context.batches.make("check", 1), context.batches.buckets[0])
    torch.testing.assert_close(pair.x0, by_hand(context, pair.z, pair.conditions, 3, guidance), atol=5e-3, rtol=5e-3)
    known = {
        tuple(torch.randn(pair.z.shape[1:], generator=generator(0, "pair", i)).flatten().tolist()) for i in range(16)
    }
    assert all(tuple(z.flatten().tolist()) in known for z in pair.z)


def test_every_prompt_has_as_many_pairs(make_context, tmp_path):
    context = make_context()
    pairs = make_pairs(context, tmp_path, count=3 * CHUNK)
    counts = torch.bincount(torch.tensor([pairs._order[i % 5] for i in range(pairs.count)]))
    assert len(counts) == 5 and counts.max() - counts.min() <= 1


def test_pairs_of_several_sizes_are_kept_apart(make_context, tmp_path):
    context = make_context(resolution=["16", "32x16"])
    pairs = make_pairs(context, tmp_path, count=5)
    assert pairs.count == 2 * CHUNK
    pairs.generate()
    for bucket in context.batches.buckets:
        batch = next(
            b for b in (context.batches.make("check", i) for i in range(1, 99)) if b.z.shape[1:] == bucket.shape
        )
        assert pairs.draw(batch, bucket).x0.shape == batch.z.shape == pairs.draw(batch, bucket).z.shape


def test_what_is_there_is_not_generated_again(make_context, tmp_path, monkeypatch):
    context, made = make_context(), []
    write = TeacherPairs._write
    monkeypatch.setattr(TeacherPairs, "_write", lambda self, chunk: made.append(chunk) or write(self, chunk))
    make_pairs(context, tmp_path, count=2 * CHUNK).generate()
    assert made == [0, 1]
    (tmp_path / "000000.safetensors").unlink()
    make_pairs(context, tmp_path, count=3 * CHUNK).generate()
    assert made == [0, 1, 0, 2]


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance": 2.0}])
def test_pairs_of_another_run_are_refused(make_context, tmp_path, change):
    context = make_context()
    make_pairs(context, tmp_path).generate()
    name = {"guidance": "guidance_scale"}.get(*change, "steps")
    with pytest.raises(UsageError, match=f"has pairs of another run: '{name}' is not the same"):
        make_pairs(context, tmp_path, **change).generate()
    other = make_context(negative_prompt="blue", guidance_scale=2.0)
    with pytest.raises(UsageError, match="'unconditional' is not the same"):
        make_pairs(other, tmp_path).generate()
    (tmp_path / "pairs.json").write_text("{")
    with pytest.raises(UsageError, match="pairs.json is damaged"):
        make_pairs(context, tmp_path).generate()


def test_a_damaged_file_is_named(make_context, tmp_path):
    context = make_context()
    pairs = make_pairs(context, tmp_path)
    pairs.generate()
    (tmp_path / "000000.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(RunError, match="000000.safetensors is damaged .*: delete it, it will be made again"):
        pairs.draw(context.batches.make("check", 1), context.batches.buckets[0])


# ---------------------------------------------------------------------------------------------------------------------
# Regression


@pytest.mark.parametrize("student_steps", [1, 2])
def test_the_first_step_is_regressed(paired, student_steps):
    context = paired(student_steps=student_steps)
    batch = context.batches.make("check", 1)
    pair, t = batch.pair(), torch.full((2,), 399)
    expected = (context.student.denoiser.x0(pair.z, t, pair.conditions) - pair.x0).square().mean()
    torch.testing.assert_close(regression_loss(context.student, batch), expected)


@pytest.mark.slow
def test_dmd_regression_is_both(paired):
    context = paired(objective="dmd_regression", regression_weight=0.5, no_backtracking=True)
    context.roles.randomize("fake", seed=1)
    stage = backtracking(context)
    stage.start()
    batch = context.batches.make("check", 1)
    *losses, metrics = stage.objective.losses(batch)
    assert [role for role, _ in losses] == ["fake", "student", "student"]
    torch.testing.assert_close(losses[2][1], 0.5 * regression_loss(context.student, batch))
    assert metrics["loss_regression"].item() == pytest.approx(2 * losses[2][1].item(), rel=1e-5)
    found = torch.autograd.grad(losses[1][1] + losses[2][1], context.student.parameters())
    stage.train_step(1)
    assert sum(g.square().sum() for g in found) > 0


@pytest.mark.slow
def test_the_warm_up_brings_the_student_to_the_pairs(paired):
    context = paired(ema_decay=0.5, learning_rate=1e-2, train_batch_size=8)
    stage = RegressionWarmup(*context.parts, context.args.optimization, total_steps=40)
    history = steps(stage, 40)
    first, last = (sum(h["loss_regression"] for h in part) for part in (history[:10], history[-10:]))
    assert last < 0.8 * first
    average = [value.clone() for value in context.student.ema.shadow_params]
    stage.finish()
    assert all(torch.equal(a, b) for a, b in zip(average, context.student.parameters()))


@pytest.mark.slow
def test_a_resumed_warm_up_goes_on_bit_for_bit(paired, tmp_path):
    def start():
        context = paired()
        return RegressionWarmup(*context.parts, context.args.optimization, total_steps=4)

    whole, first, second = start(), start(), start()
    expected = steps(whole, 4)
    steps(first, 2)
    first.save(tmp_path)
    second.load(tmp_path)
    assert steps(second, 2) == expected[2:]
    for ours, theirs in zip(second.student.ema.shadow_params, whole.student.ema.shadow_params):
        assert torch.equal(ours, theirs)


def test_the_fake_score_may_be_trained_alone_first(make_context, tmp_path):
    context = make_context(fake_score_warmup_steps=2, no_backtracking=True, lr_scheduler="linear", max_train_steps=4)
    stage = backtracking(context)
    student = [p.clone() for p in context.student.parameters()]
    fake = [p.clone() for p in context.roles.parameters("fake")]
    first, second = steps(stage, 2)
    assert first.keys() == {"loss_fake", "grad_norm_fake"} and context.student.ema.optimization_step == 0
    assert all(torch.equal(a, b) for a, b in zip(student, context.student.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(fake, context.roles.parameters("fake")))
    steps(stage, 2)
    assert not all(torch.equal(a, b) for a, b in zip(student, context.student.parameters()))
    assert stage.optimizers["student"].schedule.get_last_lr() == [0]  # its schedule has the other two updates


def test_the_path_waits_for_it(make_context, tmp_path):
    from stepping import recording

    context = make_context(fake_score_warmup_steps=3, degradation_steps=3, degradation_nodes=3, steps_per_node=2)
    path_stage = recording(context, tmp_path / "degradation")
    steps(path_stage, 3)
    path_stage.finish()
    stage = backtracking(context, path_stage.path)
    assert [stage.node for _ in range(7) if steps(stage, 1)] == [2, 2, 2, 2, 1, 1, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"teacher_pairs": 5}, "--teacher_pairs is for --warmup_pairs and --objective dmd_regression"),
        ({"teacher_pairs_steps": 5}, "--teacher_pairs_steps is for"),
        ({"teacher_pairs_folder": "x"}, "--teacher_pairs_folder is for"),
        ({"regression_weight": 1.0}, "--regression_weight is for --objective dmd_regression, not for dmd"),
        ({"fake_score_warmup_steps": 8}, "--fake_score_warmup_steps 8 leaves no update for the student"),
        ({"negative_prompt": "blue"}, "--negative_prompt has no effect without guidance"),
        ({"negative_prompt": "blue " * 80, "guidance_scale": 2.0}, "--negative_prompt is longer than the 77 tokens"),
    ],
)
def test_settings_that_cannot_work(make_context, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_context(**settings)


def test_the_negative_prompt_stands_for_the_empty_one(make_context):
    context = make_context(negative_prompt="a blue dog", guidance_scale=2.0, proportion_empty_prompts=0.99)
    expected = context.family.load_encoder("cpu")(["a blue dog"]).tensors["text"]
    batch = context.batches.make("check", 1)
    for conditions in (batch.empty, batch.score_conditions):
        torch.testing.assert_close(conditions.tensors["text"], expected.expand(2, -1, -1))
    assert not torch.equal(batch.conditions.tensors["text"], batch.empty.tensors["text"])
