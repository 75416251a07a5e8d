# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A whole run with --push_to_hub, and with a teacher from there."""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import OWNER, FakeHub
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
    assert {"README.md", "samples/degradation-path.png", "samples/step-8.png"} <= uploaded.keys()
    assert not any(name.startswith("degradation/") for name in uploaded)
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


def dry_run(*words, **environment):
    command = [sys.executable, str(SCRIPT), *quick_words(*words, "--dry_run")]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    "words, code, expected",
    [
        (["--hub_token", OWNER], 0, []),
        (["--hub_token", "hf_wrong"], 2, ["alice/private cannot be read", "does not accept", "--hub_token"]),
        ([], 2, ["alice/private is neither a folder nor a repository", "token"]),
    ],
)
def test_the_token_is_used_for_reading(hub, words, code, expected):
    hub.add_repo("alice/private", hub.files("alice/teacher"), private=True)
    run = dry_run("--pretrained_teacher_model", "alice/private", *words, HF_TOKEN="")
    assert run.returncode == code, run.stderr
    if code:
        check_message(run.stderr, "--pretrained_teacher_model", *expected)
    assert "HTTP Request" not in run.stderr + run.stdout  # of the Hub's client


def test_another_revision_and_a_missing_one(hub):
    revision = hub.commits["alice/teacher"][0][0]
    words = ["--pretrained_teacher_model", "alice/teacher", "--teacher_revision"]
    assert dry_run(*words, revision).returncode == 0
    run = dry_run(*words, "v7")
    assert run.returncode == 2
    check_message(run.stderr, "alice/teacher on the Hub has no revision v7")
