# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the scripts share."""

import json
import shutil
import sys

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from script_runs import PROMPTS, SCRIPT, check_message, quick_words

from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script


@pytest.fixture
def files(sd_folder, tmp_path, monkeypatch):
    """An empty current folder but for prompts.txt; the teacher's folder is ./teacher, read only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    (tmp_path / "teacher").symlink_to(sd_folder)
    return tmp_path


@pytest.fixture
def fails(files, monkeypatch, capfd):
    """A function that runs the script with more flags and checks code and message; `early` is before weights load."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for optional in ("bitsandbytes", "wandb", "xformers"):
        monkeypatch.setitem(sys.modules, optional, None)  # as if it were not installed

    def check(flags, *expected, code=2, early=True, family=StableDiffusion):
        more = flags.split() if isinstance(flags, str) else flags
        capfd.readouterr()
        got = run_script(lambda: parse_args(quick_words(*more)), family)
        printed = capfd.readouterr().err
        assert got == code, printed
        check_message(printed, *expected)
        assert not early or not (files / "out").exists()  # which is made just before weights are loaded

    yield check
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def changed_teacher(files, sd_folder):
    """A function that makes ./changed, a copy of a teacher in which one JSON file has other values."""

    def change(file=None, teacher=sd_folder, **values):
        shutil.copytree(teacher, files / "changed")
        if file:
            path = files / "changed" / file
            config = {**json.loads(path.read_text()), **values}
            path.write_text(json.dumps({key: value for key, value in config.items() if value != "removed"}))
        return files / "changed"

    return change
