# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students that learn guidance alone and keep the teacher's steps (`--objective guidance`)."""

import json

import pytest
import torch
from real_images import save_folder
from safetensors.torch import load_file
from stepping import backtracking, steps
from tiny_edm import save_teacher

from disback_diffusers import DisBackPipeline, UsageError, distill
from disback_diffusers.models.samplers import TeacherSteps
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.objectives import GuidanceDistillation
from disback_diffusers.training.plan import Plan


GUIDANCE = {"objective": "guidance", "guidance_scale": 3.0}
FEW_PAIRS = {"teacher_pairs": 16, "teacher_pairs_steps": 2}


@pytest.fixture
def real(tmp_path):
    return save_folder(tmp_path / "real")


def losses(context):
    objective = GuidanceDistillation(context.student, context.networks.fake, context.args.objective)
    objective.target, batch = context.networks.teacher, context.batches.make("check", 1)
    (role, loss), metrics = objective.losses(batch)
    assert role == "student" and metrics["loss_student"] == loss
    return loss, batch


@pytest.mark.parametrize("last", [None, 400])
def test_the_loss_is_the_distance_to_the_guided_teacher(make_context, real, last):
    context = make_context(**GUIDANCE, real_images=real, train_batch_size=4, guidance_max_timestep=last)
    context.roles.randomize("student", seed=1)
    loss, batch = losses(context)
    samples, teacher, student = batch.real(0), context.networks.teacher, context.student.denoiser
    alpha, sigma = context.family.schedule.alpha_sigma(batch.t, samples.samples)
    x_t = alpha * samples.samples + sigma * batch.noise
    with torch.no_grad():
        given, empty = (teacher.output(x_t, batch.t, c) for c in (samples.conditions, batch.empty))
    scale = torch.where(batch.t <= (1000 if last is None else last), 3.0, 1.0).view(-1, 1, 1, 1)
    output = student.output(x_t, batch.t, samples.conditions)
    expected = (output - empty - scale * (given - empty)).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
    parameters = context.student.parameters()
    found, wanted = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_without_real_images_the_teachers_samples_are_noised(make_context):
    context = make_context(**GUIDANCE, **FEW_PAIRS)
    context.distillation(trainer=None).warm_up(checkpoint=None)
    _, batch = losses(context)
    torch.testing.assert_close(batch.samples, batch.pair().x0)


def test_there_is_no_fake_score_and_no_path(make_context, real):
    context = make_context(**GUIDANCE, real_images=real)
    assert context.roles.names == ("student",)
    stage = backtracking(context)
    assert list(stage.optimizers) == ["student"] and stage.title == "guidance"
    history = steps(stage, 2)
    assert set(history[0]) == {"loss_student", "grad_norm_student"}
    assert stage.objective.target is context.networks.teacher


@pytest.mark.parametrize("student, rate", [("lora", 2e-3), ("full", 1e-4)])
def test_it_learns_guidance(make_context, real, student, rate):
    """On other samples than those it was trained on, and without the second forward."""
    context = make_context(**GUIDANCE, real_images=real, student=student, max_train_steps=60, learning_rate=rate)
    before, _ = losses(context)
    history = steps(backtracking(context), 60)
    after, _ = losses(context)
    assert after < before / 2 and history[-1]["loss_student"] < history[0]["loss_student"]


def test_it_is_sampled_as_the_teacher_is_without_guidance(make_context, real):
    context = make_context(**GUIDANCE, real_images=real, validation_inference_steps=3)
    assert context.student.sampler == TeacherSteps(3)
    context.roles.randomize("student", seed=1)
    batch = context.batches.make("check", 1)
    student = context.student.denoiser
    with torch.no_grad():
        found = context.student(batch.z, batch.conditions)
        expected = context.family.sample(student, batch.z, batch.conditions, batch.empty, 3)
        teacher = context.family.sample(context.networks.teacher, batch.z, batch.conditions, batch.empty, 3)
    torch.testing.assert_close(found, expected)
    assert (found - teacher).abs().mean() > 0.01


@pytest.mark.parametrize("name, scale", [("sd", 7.5), ("sdxl", 5.0)])
def test_the_default_scale_is_that_of_the_stock_pipeline(make_context, request, real, name, scale):
    teacher = str(request.getfixturevalue(f"{name}_folder"))
    settings = {**GUIDANCE, "guidance_scale": None, "pretrained_teacher_model": teacher}
    assert make_context(**settings, real_images=real).args.objective.guidance_scale == scale


def test_the_plan(make_context, real):
    context = make_context(**GUIDANCE, real_images=real, validation_inference_steps=3)
    rows = dict(Plan(context.args, context.sources, torch.float32).rows())
    assert rows["student"] == "lora, 3 steps of the teacher's sampler, without guidance"
    assert rows["adapters"].startswith("student: rank 4") and "pairs" not in rows and "stage 1" not in rows
    assert rows["stage 2"] == "8 updates of 4 forwards of the network a sample"


def test_a_run_is_resumed_and_its_student_is_served(make_args, tmp_path, monkeypatch):
    from disback_diffusers.training.trainer import Interrupted, Trainer

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = {**GUIDANCE, **FEW_PAIRS, "checkpointing_steps": 2, "validation_steps": 0, "max_train_steps": 4,
                "validation_inference_steps": 3, "lora_target_modules": ["attention"]}  # fmt: skip
    whole = distill(make_args(**settings, output_dir=str(tmp_path / "whole")))
    save = Trainer.save

    def stopping(self, stage):
        save(self, stage)
        raise Interrupted("stopped by the test")

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Trainer, "save", stopping)
        distill(make_args(**settings, output_dir=str(tmp_path / "run")))
    run = distill(make_args(**settings, output_dir=str(tmp_path / "run"), resume_from_checkpoint="latest"))
    ours, theirs = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (run, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)

    config = json.loads((run / "disback_config.json").read_text())
    assert config["inference_steps"] == 3 and "timesteps" not in config
    of_others = {"degradation_steps", "fake_score_init", "sid_alpha", "gan_weight", "student_steps", "no_backtracking"}
    assert not of_others & config["method"].keys()
    assert {"guidance_scale", "teacher_pairs", "learning_rate"} <= config["method"].keys()
    assert DisBackPipeline.from_pretrained(run).config.inference_steps == 3
    card = (run / "README.md").read_text()
    assert "- guidance-distilled\n" in card and "where the base model with guidance 3.0 makes two" in card


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"conditioning_timestep": 399}, "--conditioning_timestep is not for --objective guidance"),
        ({"student_steps": 2}, "--student_steps is not for --objective guidance"),
        ({"fake_score_init": "fit"}, "--fake_score_init is not for --objective guidance"),
        ({"degradation_steps": 9}, "--degradation_steps is not for --objective guidance"),
        ({"warmup_pairs": 9}, "--warmup_pairs is not for --objective guidance"),
        ({"sid_alpha": 1.2}, "--sid_alpha is not for --objective guidance"),
        ({"guidance_scale": 1.0}, "--objective guidance needs a --guidance_scale other than 1"),
        ({"real_images": "photos", "teacher_pairs": 9}, "--teacher_pairs is for .* guidance without --real_images"),
    ],
)
def test_what_has_no_effect_is_refused(make_args, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_args(**{**GUIDANCE, **settings})


def test_real_images_without_captions_are_refused(make_context, tmp_path):
    bare = save_folder(tmp_path / "bare", captions=[None, None])
    with pytest.raises(UsageError, match="--real_images .*bare has no 'text' of its images: without prompts there is"):
        make_context(**GUIDANCE, real_images=bare)


def test_pixel_space_teachers_are_refused(make_context, tmp_path):
    teacher = str(save_teacher(tmp_path / "edm"))
    settings = {**GUIDANCE, "pretrained_teacher_model": teacher, "prompt_dataset": None, "resolution": []}
    with pytest.raises(UsageError, match="--objective guidance is not supported for this kind of teacher"):
        make_context(**settings)


def test_of_a_preset_what_an_objective_has_no_use_for_is_left_out(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("pretrained_teacher_model: embedded\ndegradation_steps: 20\nfake_score_learning_rate: 1e-3\n"
                      "lora_rank: 8\nobjective: sid\nsid_alpha: 1.1\n")  # fmt: skip
    args = parse_args(["--config", str(preset), "--objective", "guidance"])
    assert (args.student.lora_rank, args.path.degradation_steps, args.objective.objective) == (8, 200, "guidance")
    args = parse_args(["--config", str(preset), "--objective=dmd"])
    assert (args.path.degradation_steps, args.objective.sid_alpha) == (20, 1.0)
    assert parse_args(["--config", str(preset)]).objective.sid_alpha == 1.1
    with pytest.raises(UsageError, match="--degradation_steps is not for --objective guidance"):
        parse_args(["--config", str(preset), "--objective", "guidance", "--degradation_steps", "20"])
