# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What must be easy to add: a family and an objective, each in one place."""

import json

import pytest
import torch
from toy_family import Points, save_points_teacher, two_clouds

from disback_diffusers import DistillationArguments, UsageError, distill
from disback_diffusers.diffusion.losses import denoising_loss
from disback_diffusers.models import families
from disback_diffusers.models.families import open_teacher
from disback_diffusers.models.roles import Roles
from disback_diffusers.training.objectives import DistributionMatching, Objective


SETTINGS = {"degradation_steps": 20, "degradation_nodes": 3, "max_train_steps": 200, "train_batch_size": 256,
            "guidance_scale": 1.0, "validation_steps": 100, "logging_steps": 5, "fake_score_learning_rate": 5e-3,
            "lr_scheduler": "cosine", "fake_score_lr_scheduler": "constant",
            "degradation_learning_rate": 5e-3, "ema_decay": 0.9}  # fmt: skip


@pytest.fixture(scope="module")
def points_teacher(tmp_path_factory):
    return save_points_teacher(tmp_path_factory.mktemp("points"))


@pytest.fixture
def points(points_teacher, monkeypatch):
    """The teacher's folder; the family is known, as if it had its line in `FAMILIES`."""
    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, Points])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return str(points_teacher)


def log(folder):
    """The lines of stage 2."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == "backtracking"]


def far_from_data(points):
    """Mean distance of sorted coordinates from those of the data."""
    real = two_clouds(len(points), torch.Generator().manual_seed(1))
    return (points.sort(0).values - real.sort(0).values).abs().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("student, rate", [("lora", 3e-3), ("full", 1e-3)])
def test_a_family_in_one_file_runs_both_stages(points, tmp_path, student, rate, caplog):
    caplog.set_level("INFO")
    settings = {**SETTINGS, "student": student, "learning_rate": rate, "lora_rank": 8}
    folder = distill(DistillationArguments(pretrained_teacher_model=points, output_dir=str(tmp_path), **settings))
    manifest = json.loads((folder / "degradation" / "manifest.json").read_text())
    assert [node["step"] for node in manifest["nodes"]] == [0, 5, 10, 20]
    config = json.loads((folder / "disback_config.json").read_text())
    assert (config["pipeline"], config["timesteps"]) == ("PointsPipeline", [399])
    assert (folder / "samples" / "step-200.png").is_file()
    assert "Load it with" not in caplog.text, "DisBackPipeline has no pipeline for it"
    assert {line["node"] for line in log(folder)} == {2, 1, 0}  # the path was walked

    before, after = (sampled(points, folder if trained else None, student) for trained in (False, True))
    assert far_from_data(after) < 0.7 * far_from_data(before)


def sampled(teacher, folder, student):
    """1,000 points of the student in one step, trained or as it starts."""
    family = open_teacher(teacher)
    network, generator = family.load_network(), torch.Generator().manual_seed(2)
    if folder and student == "full":
        network = Points.network_class.from_pretrained(folder / "unet")
    elif folder:
        network = with_lora(network, folder)
    z, t = torch.randn(1000, 2, generator=generator), torch.full((1000,), 399)
    with torch.no_grad():
        return family.schedule.to_x0(network(z, t), z, t)


def with_lora(network, folder):
    from safetensors.torch import load_file

    state = load_file(folder / "pytorch_lora_weights.safetensors")
    roles = Roles(network)
    roles.add("student", rank=8, alpha=8, targets=Points.lora_targets["all"])
    roles.load_state_dict("student", {key.removeprefix("unet."): value for key, value in state.items()})
    roles.use("student")
    return network


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"prompt_dataset": "embedded"}, "--prompt_dataset: this teacher is not conditioned on prompts"),
        ({"validation_prompts": ["a cat"]}, "--validation_prompts is not supported for this kind of teacher"),
        ({"gradient_checkpointing": True}, "--gradient_checkpointing is not supported for this kind of teacher"),
        ({"student": "full", "student_unet": "u"}, "--student_unet is not supported for this kind of teacher"),
        ({"lcm_lora": "l"}, "--lcm_lora is not supported for this kind of teacher"),
        ({"resolution": ["64"]}, "--resolution 64: points have no size"),
        (
            {"pretrained_vae_model_name_or_path": "v"},
            "--pretrained_vae_model_name_or_path is for teachers with a VAE",
        ),
    ],
)
def test_what_a_family_lacks_is_refused_by_the_name_of_the_flag(points, tmp_path, monkeypatch, settings, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=expected):
        distill(DistillationArguments(pretrained_teacher_model=points, **settings, **SETTINGS))


# ---------------------------------------------------------------------------------------------------------------------


class ScoreIdentity(Objective):
    """After SiD (Zhou et al., 2024): the student's loss is differentiated through both scores."""

    def losses(self, batch):
        x0 = self.student.training_samples(batch)
        batch.samples = x0.detach()
        x_t = self.schedule.add_noise(x0, batch.noise, batch.t)
        fake = self.fake.x0(x_t, batch.t, batch.score_conditions)
        target = self.target.x0(x_t, batch.t, batch.score_conditions)
        student_loss = ((fake - target) * (fake - x0)).mean()
        yield "student", student_loss
        output = self.fake.output(x_t.detach(), batch.t, batch.score_conditions)
        fake_loss = denoising_loss(output, batch.samples, batch.noise, batch.t, self.schedule)
        yield "fake", fake_loss
        yield {"loss_student": student_loss.detach(), "loss_fake": fake_loss.detach()}


def run(points, folder, objective, **settings):
    settings = {**SETTINGS, "max_train_steps": 40, "student": "full", "learning_rate": 1e-4, **settings}
    args = DistillationArguments(pretrained_teacher_model=points, output_dir=str(folder), **settings)
    return distill(args, objective=objective)


def test_an_objective_in_one_class_trains_through_the_scores(points, tmp_path):
    folder = run(points, tmp_path, ScoreIdentity, fake_score_updates_per_step=2)
    assert all(abs(line["loss_student"]) < 100 for line in log(folder))
    assert not torch.equal(sampled(points, folder, "full"), sampled(points, None, "full"))
    assert json.loads((folder / "disback_config.json").read_text())["method"]["objective"] == "ScoreIdentity"
    with pytest.raises(UsageError, match="trained with the objective ScoreIdentity, this run has DistributionMatch"):
        run(points, tmp_path, DistributionMatching, fake_score_updates_per_step=2, resume_from_checkpoint="latest")


class WithoutMetrics(ScoreIdentity):
    def losses(self, batch):
        yield from (item for item in super().losses(batch) if not isinstance(item, dict))


class OfAnUnknownRole(Objective):
    def losses(self, batch):
        yield "studnet", self.student.training_samples(batch).sum()


class MetricsFirst(ScoreIdentity):
    def losses(self, batch):
        *pairs, metrics = super().losses(batch)
        yield from (metrics, *pairs)


class NoScalars(ScoreIdentity):
    def losses(self, batch):
        yield "student", self.student.training_samples(batch)


class WithoutSamples(ScoreIdentity):
    def losses(self, batch):
        for item in super().losses(batch):
            batch.samples = None if isinstance(item, dict) else batch.samples
            yield item


@pytest.mark.parametrize(
    "objective, expected",
    [
        (WithoutMetrics, "WithoutMetrics yields no metrics: the last item must be a dict"),
        (OfAnUnknownRole, "OfAnUnknownRole yields a loss for 'studnet', expected is one for student and fake"),
        (MetricsFirst, "MetricsFirst yields more after its metrics"),
        (NoScalars, r"NoScalars yields a loss of shape \(256, 2\) for 'student': it must be a scalar"),
        (WithoutSamples, "WithoutSamples.losses must set batch.samples"),
    ],
)
def test_an_objective_that_does_not_give_what_is_expected(points, tmp_path, objective, expected):
    with pytest.raises(ValueError, match=expected):
        run(points, tmp_path, objective, fake_score_updates_per_step=2, no_backtracking=True, validation_steps=0)


def test_what_is_no_objective_is_refused_at_once(points, tmp_path):
    with pytest.raises(TypeError, match="objective must be a subclass of Objective, not 'sid'"):
        run(points, tmp_path / "run", "sid")
    assert not (tmp_path / "run").exists()
