# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A whole run with --push_to_hub, and with a teacher from there."""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import FakeHub
from script_runs import SCRIPT, check_message, launch, quick_words

from disback_diffusers.hub import CONFIG_NAME, LORA_NAME


@pytest.fixture
def hub(sd_folder, files, monkeypatch):
    """A Hub that has the teacher, and that every process started from here talks to."""
    teacher = {path.relative_to(sd_folder).as_posix(): path for path in sd_folder.rglob("*") if path.is_file()}
    with FakeHub() as hub:
        hub.add_repo("alice/teacher", {name: path.read_bytes() for name, path in teacher.items()})
        for name, value in {**hub.env(), "HF_HOME": str(files / "home")}.items():
            monkeypatch.setenv(name, value)
        yield hub


def test_from_the_hub_and_to_the_hub(hub, files):
    launch(quick_words("--pretrained_teacher_model", "alice/teacher", "--push_to_hub"), "--num_processes", "1")
    (revision, _), *_ = hub.commits["alice/teacher"]
    uploaded = hub.files("alice/out")
    assert {"README.md", "degradation/manifest.json", "samples/step-8.png"} <= uploaded.keys()
    assert uploaded[LORA_NAME] == (files / "out" / LORA_NAME).read_bytes()
    config = json.loads(uploaded[CONFIG_NAME])
    assert (config["base_model"], config["base_revision"]) == ("alice/teacher", revision)


def test_a_token_that_is_not_accepted_is_told_before_anything_is_written(hub, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    command = [sys.executable, str(SCRIPT), *quick_words("--push_to_hub")]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2
    check_message(run.stderr, "token")
    assert not (files / "out").exists() and "alice/out" not in hub.commits
