# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The student with the lowest metric is what a run leaves."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from disback_diffusers import distill
from disback_diffusers.errors import UsageError
from disback_diffusers.training.best import BestStudent
from disback_diffusers.training.distance_probe import DistanceProbe


def set_to(student, value):
    for shadow in student.ema.shadow_params:
        shadow.fill_(value)


def test_the_lowest_is_kept(make_context, tmp_path):
    student, best = make_context().student, BestStudent(tmp_path, "fd")
    assert not best.restore(student) and not (tmp_path / "best").exists()
    for step, value in enumerate((3.0, 1.0, math.nan, 2.0, 1.0), 1):
        set_to(student, step)
        best.offer(step, value, student)
    assert sorted(file.name for file in (tmp_path / "best").iterdir()) == ["2.safetensors", "best.json"]
    again = BestStudent(tmp_path, "fd")
    assert (again.step, again.value) == (2, 1.0)
    assert again.restore(student) and all((shadow == 2).all() for shadow in student.ema.shadow_params)
    assert BestStudent(tmp_path, "mismatch").step is None, "one metric says nothing of another"


def test_a_process_that_has_written_nothing_finds_it(make_context, tmp_path):
    student, other = make_context().student, BestStudent(tmp_path, "fd")
    set_to(student, 7.0)
    BestStudent(tmp_path, "fd").offer(4, 0.5, student)
    set_to(student, 0.0)
    assert other.restore(student) and all((shadow == 7).all() for shadow in student.ema.shadow_params)


def test_damaged_files_are_named(make_context, tmp_path):
    student, best = make_context().student, BestStudent(tmp_path, "fd")
    best.offer(1, 0.5, student)
    (tmp_path / "best" / "1.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"1.safetensors is damaged .*: delete .*best to do without"):
        best.restore(student)
    (tmp_path / "best" / "best.json").write_text("{")
    with pytest.raises(UsageError, match="best.json is damaged"):
        BestStudent(tmp_path, "fd")


@pytest.mark.slow
def test_a_run_leaves_its_best_student(make_args, tmp_path, monkeypatch):
    """Measured at each of four updates; the second is the best, whatever the others are."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    distances, seen = iter([3.0, 1.0, 4.0, 2.0]), []

    def measure(self):
        seen.append([shadow.clone() for shadow in self.networks.student.ema.shadow_params])
        return {"fd": next(distances)}

    monkeypatch.setattr(DistanceProbe, "__call__", measure)
    settings = {"log_fd_every": 1, "fd_reference": "embedded", "no_backtracking": True, "max_train_steps": 4,
                "validation_steps": 0, "keep_best": "fd"}  # fmt: skip
    folder = distill(make_args(**settings))
    saved = load_file(folder / "pytorch_lora_weights.safetensors")
    assert {value.double().sum().item() for value in saved.values()} == {
        value.double().sum().item() for value in seen[1]
    }
    assert not all(torch.equal(a, b) for a, b in zip(seen[1], seen[3]))
    method = json.loads((folder / "disback_config.json").read_text())["method"]
    assert (method["kept_step"], method["kept_fd"]) == (2, 1.0)


@pytest.mark.parametrize("metric", ["fd", "mismatch"])
def test_it_needs_the_metric(make_args, metric):
    with pytest.raises(UsageError, match=f"--keep_best {metric} needs --log_{metric}_every"):
        make_args(keep_best=metric)
