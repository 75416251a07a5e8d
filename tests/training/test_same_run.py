# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which settings make a resumed run another one."""

import os
import shutil

import pytest

from disback_diffusers.training.arguments import (
    NOTHING,
    PATH,
    RESULT,
    TEACHER,
    DistillationArguments,
    names,
)
from disback_diffusers.training.run_folder import different


@pytest.fixture
def folder(tmp_path, monkeypatch, sd_folder):
    shutil.copytree(sd_folder, tmp_path / "sd")
    (tmp_path / "p.txt").write_text("a cat\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**changes):
    return DistillationArguments(**{"pretrained_teacher_model": "sd", "prompt_dataset": "p.txt", **changes}).settings()


def test_every_setting_says_what_it_shapes():
    kinds = [names(shapes=kind) for kind in (TEACHER, PATH, RESULT, NOTHING)]
    assert sorted(sum(kinds, [])) == sorted(DistillationArguments.defaults())
    assert {"adam_beta1", "max_grad_norm", "mixed_precision", "seed"} <= set(kinds[1])
    assert {"learning_rate", "lr_warmup_steps", "ema_decay"} <= set(kinds[2])
    assert {"output_dir", "hub_token", "gradient_checkpointing", "report_to"} <= set(kinds[3])


def test_the_same_files_by_other_names(folder):
    before = settings()
    (folder / "link").symlink_to("sd")
    for teacher in ("./sd", str(folder / "sd"), "../" + folder.name + "/sd", "link", "sd/"):
        assert different(before, settings(pretrained_teacher_model=teacher)) == []
    assert different(before, settings(prompt_dataset=f"{folder}/p.txt")) == []


def test_from_another_folder(folder, monkeypatch):
    before = settings()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert different(before, settings(pretrained_teacher_model="../sd", prompt_dataset="../p.txt")) == []


def test_copied_moved_and_changed_files(folder, monkeypatch):
    before = settings()
    shutil.copytree("sd", "copy")
    shutil.copy("p.txt", "q.txt")
    assert different(before, settings(pretrained_teacher_model="copy", prompt_dataset="q.txt")) == []
    (folder / "q.txt").write_text("a dog\n")
    (folder / "copy" / "scheduler" / "scheduler_config.json").write_text("{}")
    other = settings(pretrained_teacher_model="copy", prompt_dataset="q.txt")
    assert different(before, other) == ["pretrained_teacher_model", "prompt_dataset"]
    os.rename("sd", "moved")
    assert different(before, settings(pretrained_teacher_model="moved")) == []
    assert different(before, settings(pretrained_teacher_model="owner/sd")) == ["pretrained_teacher_model"]


def test_a_hub_id_and_a_folder_of_that_name(folder):
    before = settings(pretrained_teacher_model="owner/model")
    assert different(before, settings(pretrained_teacher_model="sd")) == ["pretrained_teacher_model"]


def test_what_is_at_fault_is_named_and_nothing_else(folder):
    before = settings(max_train_steps=2000)
    assert different(before, settings(max_train_steps=4000)) == []
    assert different(before, settings(max_train_steps=4000, learning_rate=5e-5)) == ["learning_rate"]
    cosine = {"lr_scheduler": "cosine"}
    assert different(settings(max_train_steps=2000, **cosine), settings(**cosine)) == ["max_train_steps"]
    assert different(before, settings(**cosine)) == ["lr_scheduler", "max_train_steps"]
    free = {"gradient_checkpointing": True, "output_dir": "other", "logging_steps": 5, "report_to": ["tensorboard"]}
    assert different(before, settings(max_train_steps=2000, **free)) == []


def test_a_run_of_an_older_version(folder):
    before = settings()
    del before["push_degradation_path"], before["guidance_max_timestep"]  # it did not know them
    before["mixed_precision"] = None  # left to accelerate; the checkpoint has it
    assert different(before, settings(mixed_precision="bf16")) == []
    assert different(before, settings(guidance_max_timestep=500)) == ["guidance_max_timestep"]
