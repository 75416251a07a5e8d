# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The mismatch degree as it is measured in training."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from diffusers import ConsistencyModelPipeline, EDMEulerScheduler, UNet2DModel
from stepping import backtracking

from disback_diffusers.errors import UsageError
from disback_diffusers.training import mismatch_probe
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.sources import open_sources


EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = ["a red cat", "a blue dog"]


def expected(context, probe):
    """Eq. 9 sample by sample, with a teacher loaded apart and the true score by autograd."""
    schedule, network, distances = context.family.schedule, context.family.load_network(), []
    for prompt in PROMPTS:
        conditions = context.batches.bank.encode([prompt])
        with torch.no_grad():
            samples = torch.cat([context.student(z[None], conditions) for z in probe.z]).double()
        for x0, noise, t in zip(samples, probe.noise, probe.times, strict=True):
            alpha, sigma = (value.item() for value in schedule.alpha_sigma(t, x0[None]))
            x_t = (alpha * x0 + sigma * noise).requires_grad_()
            log = -(x_t - alpha * samples).square().flatten(1).sum(1) / (2 * sigma**2)
            (true,) = torch.autograd.grad(log.logsumexp(0), x_t)
            with torch.no_grad():
                output = network(x_t[None].float(), t, encoder_hidden_states=conditions.tensors["text"]).sample[0]
            distances.append((-output.double() / sigma - true).norm())
    return torch.stack(distances).mean().item()


@pytest.mark.slow
def test_it_is_the_distance_of_the_teachers_score_from_that_of_the_students_samples(make_context):
    context = make_context(log_mismatch_every=1, validation_prompts=PROMPTS)
    for seed, role in enumerate(("target", "fake", "student")):  # nothing is like the teacher, or like its average
        context.roles.randomize(role, seed=seed)
    for average in context.student.ema.shadow_params:
        average.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    (probe,) = context.probes
    degree = probe()["mismatch"]
    with context.student.averaged():
        assert degree == pytest.approx(expected(context, probe), rel=1e-4)
    (other,) = context.probes
    assert torch.equal(other.z, probe.z) and torch.equal(other.noise, probe.noise)  # those of a resumed run
    assert not torch.equal(probe.z, probe.noise)


@pytest.mark.slow
def test_training_goes_on_as_without_it(make_context, tmp_path):
    """And there is a line with it whenever it is due."""
    results = []
    for every in (0, 3):
        context = make_context(no_backtracking=True, log_mismatch_every=every, logging_steps=2)
        folder = RunFolder(tmp_path / f"run-{every}")
        folder.open(context.args.settings())
        context.trainer(folder, probes=context.probes).run(backtracking(context))
        folder.close()
        lines = [json.loads(line) for line in (folder.folder / "log.jsonl").read_text().splitlines()]
        student = context.student.denoiser.state_dict()
        results.append(({line["step"]: line.get("mismatch") for line in lines}, student))
    (without, plain), (with_it, student) = results
    assert without == {2: None, 4: None, 6: None, 8: None}
    assert [step for step, value in with_it.items() if value] == [3, 6] and set(with_it) == {2, 3, 4, 6, 8}
    assert all(torch.equal(plain[key], student[key]) for key in plain)


@pytest.mark.slow
def test_the_teachers_samples_have_less_of_it_than_an_untrained_student(make_context, monkeypatch):
    """In latents, at each of the times."""
    monkeypatch.setattr(mismatch_probe, "SAMPLES", 64)
    files = {"pretrained_teacher_model": "embedded", "prompt_dataset": "embedded", "resolution": []}
    context = make_context(**files, train_batch_size=64, log_mismatch_every=1)
    (probe,) = context.probes
    times, untrained = probe.times.unique(), []
    for t in times:
        probe.times = torch.full_like(probe.times, t)
        untrained.append(probe()["mismatch"])
    conditions = [context.batches.shown_conditions([i]).expand(len(probe.z)) for i in probe.prompts]
    with torch.no_grad():
        samples = [context.family.sample(context.networks.teacher, probe.z, each, each, 8) for each in conditions]
    batches = itertools.cycle(samples)
    monkeypatch.setattr(type(context.student), "__call__", lambda self, z, conditions: next(batches))
    for t, degree in zip(times, untrained, strict=True):
        probe.times = torch.full_like(probe.times, t)
        assert probe()["mismatch"] < 0.9 * degree


@pytest.mark.slow
def test_of_pixels_it_shows_what_is_missing(make_context, monkeypatch):
    """Images that vary less than real ones have more of it, though they are easier to denoise."""
    teacher = EXAMPLES / "tiny_edm" / "unconditional"
    files = {"pretrained_teacher_model": str(teacher), "prompt_dataset": None, "resolution": [], "student": "full"}
    context = make_context(**files, train_batch_size=64, log_mismatch_every=1)
    (probe,) = context.probes
    untrained = probe()["mismatch"]
    data = load_dataset("parquet", data_files=str(EXAMPLES / "data" / "noto_emoji_32.parquet"), split="train")
    images = [torch.tensor(list(image.convert("RGB").tobytes())) for image in data[:: len(data) // 256]["image"]]
    real = torch.stack(images).view(-1, 32, 32, 3).permute(0, 3, 1, 2) / 127.5 - 1

    def degree(images):
        batches = iter(images.split(64))
        monkeypatch.setattr(type(context.student), "__call__", lambda self, z, conditions: next(batches))
        return probe()["mismatch"]

    mean, of_real = real.mean(dim=0), degree(real)
    assert of_real < 0.6 * untrained
    assert degree(mean + 0.8 * (real - mean)) > 1.1 * of_real
    assert degree(real[:32].repeat(8, 1, 1, 1)) > 2 * of_real


def test_of_pixels_it_is_the_mean_of_the_roots_at_each_level(make_context, monkeypatch):
    files = {"pretrained_teacher_model": str(EXAMPLES / "tiny_edm" / "unconditional"), "prompt_dataset": None}
    context = make_context(**files, resolution=[], train_batch_size=64, log_mismatch_every=1)
    monkeypatch.setattr(mismatch_probe, "SAMPLES", 8)
    (probe,) = context.probes
    signs = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, -4]).double()  # products of few samples can be negative
    monkeypatch.setattr(mismatch_probe, "squared_mismatch", lambda score, x_t, t, *rest: signs * t.double() ** 2)
    assert probe()["mismatch"] == pytest.approx((probe.times[:3].sum() / 4).item())


def test_of_large_images_it_cannot_be_estimated(make_args, tmp_path):
    config = UNet2DModel.load_config(EXAMPLES / "tiny_edm" / "unconditional" / "unet")
    unet = UNet2DModel.from_config({**config, "sample_size": 256})
    ConsistencyModelPipeline(unet, EDMEulerScheduler()).save_pretrained(tmp_path / "large")
    files = {"pretrained_teacher_model": str(tmp_path / "large"), "prompt_dataset": None, "resolution": []}
    open_sources(make_args(**files))
    with pytest.raises(UsageError, match="^--log_mismatch_every: .*256x256 images: measure FD"):
        open_sources(make_args(**files, log_mismatch_every=5))
