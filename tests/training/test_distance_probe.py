# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The Fréchet distance as it is measured in training."""

import json

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from stepping import backtracking

from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.training.run_folder import RunFolder


FD = {"log_fd_every": 3, "fd_reference": "embedded"}


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "memory"])
def test_it_is_that_of_the_averaged_students_images(make_context, cache):
    context = make_context(**FD, fd_images=4, cache_text_embeddings=cache, resolution=["32"])  # the judge's
    context.roles.randomize("student", seed=1)
    for average in context.student.ema.shadow_params:
        average.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    (probe,), judge, rows = context.probes, Judge(), []
    assert probe.prompts == [0, 1, 2, 3]
    encode = context.family.load_encoder("cpu")
    with context.student.averaged(), torch.no_grad():
        for i, z in zip(probe.prompts, probe.z, strict=True):
            image = context.family.decode(context.student(z[None], encode([context.sources.prompts[i]])))
            rows.append(judge.image_features((image * 255).round() / 255))
    features = torch.cat(rows).double().numpy()
    mean, covariance = judge.reference["mean"].double().numpy(), judge.reference["covariance"].double().numpy()
    own = np.cov(features.T)
    root = sqrtm(own @ covariance).real
    expected = np.square(features.mean(0) - mean).sum() + np.trace(own + covariance - 2 * root)
    found = probe()
    assert found == {"fd": pytest.approx(expected, rel=1e-4)} and probe() == found
    (other,) = context.probes
    assert torch.equal(other.z, probe.z)  # that of a resumed run


@pytest.mark.slow
def test_training_goes_on_as_without_it(make_context, tmp_path):
    results = []
    for settings in ({}, FD):
        context = make_context(no_backtracking=True, logging_steps=2, **settings)
        folder = RunFolder(tmp_path / f"run-{len(settings)}")
        folder.open(context.args.settings())
        context.trainer(folder, probes=context.probes).run(backtracking(context))
        folder.close()
        lines = [json.loads(line) for line in (folder.folder / "log.jsonl").read_text().splitlines()]
        results.append(({line["step"]: line.get("fd") for line in lines}, context.student.denoiser.state_dict()))
    (without, plain), (with_it, student) = results
    assert not any(without.values()) and [step for step, value in with_it.items() if value] == [3, 6]
    assert all(torch.equal(plain[key], student[key]) for key in plain)
