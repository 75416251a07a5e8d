# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What accelerate is set to and cannot be done is said before anything is loaded."""

import pytest
import torch
from script_runs import SCRIPTS, quick_words, start

from disback_diffusers import UsageError
from disback_diffusers.launcher import check_launcher


@pytest.mark.parametrize(
    "variable, name",
    [
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_kinds_of_parallelism(monkeypatch, variable, name):
    check_launcher()
    for value in ("false", "0", ""):
        monkeypatch.setenv(variable, value)
        check_launcher()
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UsageError, match=f"accelerate is set to {name}, .*accelerate config"):
        check_launcher()


@pytest.mark.parametrize(
    "variable, value", [("ACCELERATE_USE_FSDP", "perhaps"), ("WORLD_SIZE", "x"), ("LOCAL_WORLD_SIZE", "1.5")]
)
def test_values_without_sense(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"environment variable {variable} is '{value}'"):
        check_launcher()


def test_values_as_accelerate_reads_them(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "on")
    check_launcher()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "on")
    with pytest.raises(UsageError, match="DeepSpeed"):
        check_launcher()


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were launched, but torch sees no CUDA GPU"):
        check_launcher()
    monkeypatch.setenv("RANK", "1")  # the first process says it for all
    with pytest.raises(SystemExit):
        check_launcher()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_launcher()


def test_fewer_gpus_than_processes(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # on another machine each
    check_launcher()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were launched, but torch sees 1 CUDA GPU"):
        check_launcher()


@pytest.mark.parametrize("script", ["train_disback_sd.py", "evaluate_disback.py"])
def test_the_scripts_say_so_in_one_line(files, script):
    words = quick_words() if "train" in script else ["teacher", "--prompts", "prompts.txt", "--reference", "embedded"]
    run = start(words, script=SCRIPTS / script, ACCELERATE_USE_DEEPSPEED="true")
    assert run.wait() == 2 and len(run.messages) == 1 and "Traceback" not in run.output
    assert "DeepSpeed" in run.messages[0]
    run = start(words, script=SCRIPTS / script, ACCELERATE_USE_CPU="false", WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="")
    assert run.wait() == 2 and len(run.messages) == 1 and "2 processes were launched" in run.messages[0]


def test_precisions_and_trackers(fails, monkeypatch):
    fails("--report_to tensorbord", "--report_to tensorbord: there is no such tracker", "tensorboard")
    fails("--report_to none tensorboard", "--report_to none: there is no such tracker")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "x")
    fails("", "accelerate cannot start", "accelerate config")
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    fails("", "--mixed_precision fp8 (as accelerate is set) is not supported")
