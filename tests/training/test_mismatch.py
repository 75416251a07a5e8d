# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The mismatch degree as it is measured in training."""

import json

import pytest
import torch

from disback_diffusers.training.backtracking import DistributionBacktracking
from disback_diffusers.training.mismatch import MismatchProbe
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.trainer import Trainer


PROMPTS = ["a red cat", "a blue dog"]


def make_probe(context):
    return MismatchProbe(context, context.batches.bank.encode(PROMPTS))


def expected(context, probe):
    """Eq. 9 sample by sample, with a teacher loaded apart and the true score by autograd."""
    schedule, unet, distances = context.teacher.schedule, context.teacher.load_unet(), []
    for prompt in PROMPTS:
        told = context.batches.bank.encode([prompt])
        with torch.no_grad():
            samples = torch.cat([context.student(z[None], told) for z in probe.noise]).double()
        for x0, epsilon, t in zip(samples, probe.epsilon, probe.times, strict=True):
            alpha, sigma = (value.item() for value in schedule.alpha_sigma(t, x0[None]))
            x_t = (alpha * x0 + sigma * epsilon).requires_grad_()
            log = -(x_t - alpha * samples).square().flatten(1).sum(1) / (2 * sigma**2)
            (true,) = torch.autograd.grad(log.logsumexp(0), x_t)
            with torch.no_grad():
                output = unet(x_t[None].float(), t, **told.kwargs()).sample[0]
            distances.append((-output.double() / sigma - true).norm())
    return torch.stack(distances).mean().item()


def test_it_is_the_distance_of_the_teachers_score_from_that_of_the_students_samples(make_context):
    context = make_context()
    for seed, role in enumerate(("target", "fake", "student")):  # nothing is like the teacher, or like its average
        context.roles.randomize(role, seed=seed)
    for average in context.student.ema.shadow_params:
        average.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    probe = make_probe(context)
    degree = probe()["mismatch"]
    with context.student.averaged():
        assert degree == pytest.approx(expected(context, probe), rel=1e-4)


def test_training_goes_on_as_without_it(make_context, tmp_path):
    """And there is a line with it whenever it is due."""
    results = []
    for every in (0, 3):
        context = make_context(no_backtracking=True, log_mismatch_every=every, logging_steps=2, validation_steps=0)
        folder = RunFolder(tmp_path / f"run-{every}")
        folder.open(context.args.settings())

        class NoPictures:
            def draw(self, step):
                pass

        Trainer(context, folder, NoPictures(), [make_probe(context)]).run(DistributionBacktracking(context, None))
        folder.close()
        lines = [json.loads(line) for line in (folder.folder / "log.jsonl").read_text().splitlines()]
        results.append(({line["step"]: line.get("mismatch") for line in lines}, context.student.state_dict()))
    (without, plain), (with_it, student) = results
    assert without == {2: None, 4: None, 6: None, 8: None}
    assert [step for step, value in with_it.items() if value] == [3, 6] and set(with_it) == {2, 3, 4, 6, 8}
    assert all(torch.equal(plain[key], student[key]) for key in plain)
