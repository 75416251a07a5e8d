# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Pixel-space teachers: their preconditioning, labels, samples, and a run with each."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, EDMEulerScheduler
from PIL import Image
from tiny_edm import save_teacher

from disback_diffusers import DisBackPipeline, DistillationArguments, UsageError, distill
from disback_diffusers.diffusion.losses import distribution_matching_gradient
from disback_diffusers.models.batch import generator
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import DDPM, EDM, open_teacher
from disback_diffusers.training.prepare import prepare


QUICK = {"degradation_steps": 4, "degradation_nodes": 3, "steps_per_node": 2, "max_train_steps": 8, "lora_rank": 2,
         "train_batch_size": 4, "validation_steps": 0,
         "validation_inference_steps": 4}  # fmt: skip


def teacher_of(family):
    return Denoiser(family, family.load_network(), family.schedule)


@pytest.mark.parametrize("kind, scale", [("edm", 0.25), ("ours", 0.25), ("cm", 250.0)])
def test_the_network_is_inside_of_edms_preconditioning(tmp_path, kind, scale):
    family = open_teacher(save_teacher(tmp_path, kind))
    assert type(family) is EDM and family.schedule.time_range == (0.002, 80.0)
    sigma = torch.tensor([0.002, 0.5, 80.0])
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * sigma.view(3, 1, 1, 1)
    denoiser = teacher_of(family)
    with torch.no_grad():
        found = denoiser.x0(x, sigma, Conditions(rows=3))
        s = sigma.view(3, 1, 1, 1)
        raw = denoiser.network(x / (s**2 + 0.25).sqrt(), scale * sigma.log()).sample
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt() * raw
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["edm", "ours"])
def test_a_forward_does_not_look_through_all_modules(tmp_path, kind, monkeypatch):
    """Diffusers' `dtype` does, and adapters add thousands."""
    denoiser = teacher_of(open_teacher(save_teacher(tmp_path / "teacher", kind, classes=4)))
    seen, every = [], denoiser.network.named_modules

    def named_modules(*args, **kwargs):
        for module in every(*args, **kwargs):
            seen.append(module)
            yield module

    monkeypatch.setattr(denoiser.network, "named_modules", named_modules)
    t, labels = torch.tensor([1.0, 80.0]), Conditions({"labels": torch.tensor([0, 3])})
    assert denoiser.output(torch.randn(2, 3, 8, 8), t, labels).shape == (2, 3, 8, 8)
    assert 0 < len(seen) < 20 < len(list(every()))
    assert denoiser.network.dtype == torch.float32


def test_the_exact_denoiser_of_gaussian_data_has_the_exact_score(tmp_path):
    """Data N(m, d^2): D(x) = (d^2 x + s^2 m) / (d^2 + s^2), whose score is -(x - m) / (d^2 + s^2)."""
    schedule, mean, std = open_teacher(save_teacher(tmp_path)).schedule, 0.3, 0.5
    for sigma in (0.002, 0.1, 1.0, 80.0):
        x = mean + torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * (std + sigma)
        x0 = (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)
        skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
        score = schedule.to_score((x0 - skip * x) / out, x, sigma)
        torch.testing.assert_close(score, -(x - mean) / (std**2 + sigma**2), atol=1e-6, rtol=1e-6)


def test_heuns_samples_of_gaussian_data_come_to_its_mean_and_deviation(tmp_path):
    """The error is of the second order in the number of steps."""
    family = open_teacher(save_teacher(tmp_path))

    class Exact(Denoiser):
        def output(self, x_t, t, conditions):
            s = t.view(-1, 1, 1, 1)
            x0 = (0.25 * x_t + s**2 * 0.3) / (0.25 + s**2)
            return (x0 - 0.25 / (s**2 + 0.25) * x_t) * (s**2 + 0.25).sqrt() / (s * 0.5)

    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher, nothing = Exact(family, torch.nn.Linear(1, 1), family.schedule), Conditions(rows=2)
    exact = 0.3 + (80 * z - 0.3) * (0.25 / (0.25 + 80**2)) ** 0.5  # the solution of the probability-flow ODE
    errors = [(family.sample(teacher, z, nothing, nothing, n) - exact).abs().max().item() for n in (20, 40, 80)]
    assert errors[2] < 0.01 and errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("weighting", ["uniform", "vsd", "dmd"])
def test_the_gradient_on_gaussians_is_that_of_the_scores_and_zero_at_equality(tmp_path, weighting):
    """Student N(0.1, 0.2^2), target N(0.3, 0.5^2), in float64, by the outputs of exact denoisers."""
    schedule = open_teacher(save_teacher(tmp_path)).schedule
    random = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=random)
    sigma = torch.tensor([0.002, 0.1, 1.0, 10.0, 80.0], dtype=torch.float64)
    s, student, target = sigma.view(5, 1), (0.1, 0.2), (0.3, 0.5)
    x0 = student[0] + student[1] * z
    x_t = schedule.add_noise(x0, noise, sigma)

    def estimate(mean, std):
        exact = (std**2 * x_t + s**2 * mean) / (std**2 + s**2)
        output = (exact - 0.25 / (s**2 + 0.25) * x_t) * (s**2 + 0.25).sqrt() / (s * 0.5)  # of the raw network
        return schedule.to_x0(output, x_t, sigma)

    def gradient(fake):
        factors = {"alpha": 1.0, "sigma": s}
        return distribution_matching_gradient(x0, estimate(*fake), estimate(*target), weighting, **factors)

    scores = [-(x_t - mean) / (std**2 + s**2) for mean, std in (student, target)]
    exact = estimate(*target)
    weight = {"uniform": 1.0, "vsd": s**2, "dmd": s**2 / (x0 - exact).abs().mean(1, keepdim=True)}[weighting]
    torch.testing.assert_close(gradient(student), weight * (scores[0] - scores[1]), atol=1e-6, rtol=1e-6)
    x0 = target[0] + target[1] * z
    x_t = schedule.add_noise(x0, noise, sigma)
    assert gradient(target).abs().max() == 0


def test_samples_of_ddpm_are_those_of_the_stock_pipeline(tmp_path):
    family = open_teacher(save_teacher(tmp_path, "ddpm"))
    assert type(family) is DDPM and family.schedule.num_train_timesteps == 1000
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", lambda *args, **kwargs: z)
        stock = pipeline(batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0),
                         output_type="np").images  # fmt: skip
    nothing = Conditions(rows=2)
    ours = family.decode(family.sample(teacher_of(family), z, nothing, nothing, 4)).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.as_tensor(stock), atol=1e-5, rtol=1e-5)


def test_a_scheduler_that_scales_what_the_network_gets(tmp_path, monkeypatch):
    """Its first input is the noise of variance 1 that the network was trained on."""
    family = open_teacher(save_teacher(tmp_path, "ddpm"))
    teacher, z, given = teacher_of(family), torch.randn(2, 3, 8, 8), []
    monkeypatch.setattr(family, "call", lambda network, x_t, *rest: given.append(x_t) or torch.zeros_like(x_t))
    nothing = Conditions(rows=2)
    family.sample(teacher, z, nothing, nothing, 4, scheduler="EulerDiscreteScheduler")
    torch.testing.assert_close(given[0], z, atol=1e-3, rtol=1e-3)


def test_labels_and_the_empty_one(tmp_path):
    family = open_teacher(save_teacher(tmp_path, "ours", classes=4, empty=4))
    assert (family.classes, family.empty_class, family.can_be_empty) == (4, 4, True)
    assert family.load_encoder("cpu")(["3", "", "0"]).tensors["labels"].tolist() == [3, 4, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Runs


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(teacher, **settings):
        args = {"pretrained_teacher_model": teacher, "output_dir": str(tmp_path / "run"), **QUICK, **settings}
        return distill(DistillationArguments(**args))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "teacher, settings",
    [
        (
            {"kind": "edm"},
            {"student": "full", "noise_levels": "log-normal", "ema_half_life": 40, "conditioning_sigma": 20.0},
        ),
        (
            {"kind": "ours", "classes": 4, "empty": 4},
            {"guidance_scale": 2.0, "class_labels": "2, 0-1", "log_mismatch_every": 4, "mixed_precision": "bf16"},
        ),
        ({"kind": "ddpm"}, {"student": "full"}),
    ],
)  # fmt: skip
def test_a_run_walks_the_path_and_leaves_a_student(tmp_path, run, teacher, settings):
    folder = run(save_teacher(tmp_path / "teacher", **teacher), **settings)
    config = json.loads((folder / "disback_config.json").read_text())
    has_levels = teacher["kind"] != "ddpm"
    start = {"sigmas": [settings.get("conditioning_sigma", 80.0)]} if has_levels else {"timesteps": [399]}
    assert {key: config.get(key) for key in start} == start and ("timesteps" in config) != has_levels
    nodes = [json.loads(line)["node"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert nodes[-8:] == [2, 2, 1, 1, 0, 0, 0, 0] and (folder / "samples" / "step-8.png").is_file()
    card = (folder / "README.md").read_text()
    assert ("noise level" if has_levels else "timestep 399") in card
    half_life = settings.get("ema_half_life")
    assert config["method"]["proportion_empty_prompts"] == (0.1 if "empty" in teacher else 0.0)
    again = DistillationArguments(**yaml.safe_load((folder / "arguments.yaml").read_text()))
    again.run.resume_from_checkpoint = "latest"  # what is recorded is accepted as the same run
    prepare(again)
    assert config["method"]["ema_decay"] == (0.5 ** (4 / half_life) if half_life else 0.99)
    assert config.get("class_labels") == ("0-2" if teacher.get("classes") else None)  # one spelling

    shown = np.asarray(Image.open(folder / "samples" / "card-0.png"), dtype=float)
    z = torch.randn(1, 3, 8, 8, generator=generator("validation", 0))
    labels = {"class_labels": 0} if teacher.get("classes") else {}
    pipeline = DisBackPipeline.from_pretrained(folder)
    served = np.asarray(pipeline(latents=z, **labels).images[0], dtype=float)
    assert np.abs(served - shown).max() <= (4 if settings.get("mixed_precision") else 1)


def flat_copy(folder):
    """A pipeline with all its files at the top of one folder, as google/ddpm-cifar10-32 has them."""
    copy = folder.with_name("flat")
    copy.mkdir()
    for file in [folder / "model_index.json", *(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        shutil.copy(file, copy)
    return copy


@pytest.mark.parametrize("settings", [{"student": "full"}, {"student": "lora", "lora_alpha": 4}])
def test_a_teacher_with_its_files_at_the_top(tmp_path, run, settings):
    settings = {**settings, "no_backtracking": True, "max_train_steps": 2}
    plain = run(save_teacher(tmp_path / "teacher", "ddpm"), output_dir=str(tmp_path / "plain"), **settings)
    teacher = flat_copy(tmp_path / "teacher")
    flat = run(str(teacher), **settings)
    z = torch.randn(1, 3, 8, 8, generator=generator("validation", 0))
    pipelines = [DisBackPipeline.from_pretrained(folder) for folder in (plain, flat)]
    one, other = (pipeline(latents=z, output_type="np").images for pipeline in pipelines)
    assert (one == other).all()
    for weights in teacher.glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UsageError, match="use_safetensors=False"):
        open_teacher(str(teacher))


@pytest.mark.parametrize(
    "teacher, settings, expected",
    [
        ({}, {"conditioning_timestep": 399}, "--conditioning_timestep: this teacher has noise levels: use"),
        ({"kind": "ddpm"}, {"conditioning_sigma": 80.0}, "--conditioning_sigma: this teacher has timesteps: use"),
        ({"kind": "ddpm"}, {"noise_levels": "log-normal"}, "--noise_levels log-normal: this teacher has timesteps"),
        ({}, {"conditioning_sigma": 90.0}, "--conditioning_sigma 90.0 is outside of the teacher's schedule"),
        ({}, {"class_labels": "1"}, "--class_labels: this teacher is not conditioned on classes"),
        ({"classes": 4}, {"class_labels": "2-9"}, "'2-9' is not within the teacher's classes, 0 to 3"),
        ({"classes": 4}, {"class_labels": ""}, "--class_labels : '' is not a class: give all"),
        ({"classes": 4}, {"class_labels": "cats"}, "--class_labels cats: 'cats' is not a class: give all"),
        ({"classes": 4}, {"guidance_scale": 2.0}, "--guidance_scale 2.0: this teacher has no empty class: set"),
        ({}, {"guidance_scale": 2.0}, "--guidance_scale 2.0: this teacher is unconditional: set it to 1"),
        ({}, {"guidance_max_timestep": 500}, "--guidance_max_timestep: this teacher has noise levels"),
        ({}, {"proportion_empty_prompts": 0.3}, "--proportion_empty_prompts 0.3: this teacher is unconditional"),
        ({}, {"caption_column": "label"}, "--caption_column: this teacher is not"),
        ({}, {"resolution": ["64"]}, "--resolution 64: this teacher has images of 8x8"),
        ({}, {"prompt_dataset": "embedded"}, "--prompt_dataset: this teacher is not"),
        ({}, {"validation_scheduler": "DDIMScheduler"}, "--validation_scheduler DDIMScheduler: an EDM"),
        ({}, {"validation_inference_steps": 1}, "--validation_inference_steps 1: EDM's sampler takes at least 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_teacher_is_named(tmp_path, run, teacher, settings, expected):
    with pytest.raises(UsageError, match=expected):
        run(save_teacher(tmp_path / "teacher", **teacher), **settings)


def test_the_teachers_own_scheduler_is_tried_where_another_shows_samples(tmp_path, run):
    teacher = save_teacher(tmp_path / "teacher", "ddpm")
    DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path / "teacher" / "scheduler")
    with pytest.raises(UsageError, match="its own scheduler samples for the path. Steps: 20: DDPMScheduler fails"):
        run(teacher, validation_scheduler="DDIMScheduler")


@pytest.mark.parametrize(
    "teacher, expected",
    [({}, "batch      4 samples an update, unconditional"), ({"classes": 4}, "classes    4; 4 samples an update")],
)
def test_a_plan(tmp_path, run, teacher, expected, capsys):
    run(save_teacher(tmp_path / "teacher", **teacher), dry_run=True)
    printed = capsys.readouterr().out
    assert expected in printed and "student    lora, noise level 80" in printed and "together: " in printed


@pytest.mark.parametrize(
    "text",
    [
        '{"classes": 9, "empty_class": null}',
        '{"classes": 4.0}',
        "[]",
        '{"classes": 3, "empty_class": true}',
        '{"classes": 3, "empty_class": 2}',
        '{"classes": 4, "names": ["a", "b", "c", "d\\n\\n## Licence"]}',
        '{"classes": 4, "names": ["a", "b", "c"]}',
    ],
)
def test_a_classes_file_that_does_not_fit(tmp_path, text):
    folder = save_teacher(tmp_path, classes=4)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UsageError, match="has a classes.json that does not fit its network"):
        open_teacher(folder)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"in_channels": 4, "out_channels": 4}, "has images of 4 channels: only 1 or 3"),
        ({"sample_size": 9}, "has a UNet of sample_size 9, which cannot be halved 1 times"),
        ({"sample_size": 0}, "has a UNet of sample_size 0: it must be one number above 0"),
        ({"sample_size": -8}, "has a UNet of sample_size -8: it must be one number above 0"),
        ({"num_class_embeds": 0}, "has a UNet with num_class_embeds 0"),
        ({"time_embedding_type": "fourier"}, "has a UNet with time_embedding_type fourier"),
    ],
)
def test_a_network_that_cannot_be_distilled(tmp_path, changes, expected):
    folder = save_teacher(tmp_path)
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UsageError, match=expected):
        open_teacher(folder)


@pytest.mark.parametrize("name", ["CosineDPMSolverMultistepScheduler", "EDMFoo", None, ["EDMEulerScheduler"]])
def test_a_scheduler_of_other_times(tmp_path, name):
    folder = save_teacher(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": name}))
    with pytest.raises(UsageError, match="in scheduler/: take one of EDMEulerScheduler, "):
        open_teacher(folder)


def test_noise_levels_in_a_pipeline_of_timesteps(tmp_path):
    folder = save_teacher(tmp_path, "ddpm")
    EDMEulerScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(UsageError, match="has noise levels in scheduler/, so it is no DDPMPipeline: put Consist"):
        open_teacher(folder)


def test_the_plan_of_a_run_without_a_path_that_names_stays(tmp_path, run, capsys):
    """As the paper's presets with --no_backtracking."""
    run(save_teacher(tmp_path / "teacher"), steps_per_node="2,1", no_backtracking=True, dry_run=True)
    assert "together: " in capsys.readouterr().out


def test_a_teacher_that_predicts_v(tmp_path):
    folder = save_teacher(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(UsageError, match="has prediction_type v_prediction in scheduler/: EDM's own is needed"):
        open_teacher(folder)
