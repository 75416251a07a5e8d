# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A whole run with --push_to_hub, and with a teacher from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import OWNER, FakeHub
from script_runs import SCRIPT, SCRIPTS, check_message, launch, quick_words
from tiny_edm import save_teacher

from disback_diffusers.files import CONFIG_NAME, LORA_NAME


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


def test_a_token_that_is_not_accepted_is_refused_before_anything_is_written(hub, files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    command = [sys.executable, str(SCRIPT), *quick_words("--push_to_hub")]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2
    check_message(run.stderr, "token")
    assert not (files / "out").exists() and "alice/out" not in hub.commits


RUNS = """
import json, sys
from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.script import run_script

commands = json.loads(sys.argv[1])
sys.argv[0] = "train_disback_sd.py"
for words in commands:
    code = run_script(lambda: parse_args(words), StableDiffusion)
    print(f"code {code}", file=sys.stderr, flush=True)
"""


def test_the_token_and_the_revision_are_used_for_reading(hub):
    hub.add_repo("alice/private", hub.files("alice/teacher"), private=True)
    revision = hub.commits["alice/teacher"][0][0]
    private, public = (["--pretrained_teacher_model", f"alice/{name}"] for name in ("private", "teacher"))
    cases = [
        ([*private, "--hub_token", OWNER], 0, []),
        ([*private, "--hub_token", "hf_wrong"], 2, ["alice/private cannot be read", "does not accept", "--hub_token"]),
        (private, 2, ["alice/private is neither a folder nor a repository", "token"]),
        ([*public, "--teacher_revision", revision], 0, []),
        ([*public, "--teacher_revision", "v7"], 2, ["alice/teacher on the Hub has no revision v7"]),
        ([*public, "--lcm_lora", "alice/teacher"], 2, ["--lcm_lora alice/teacher has no pytorch_lora_weights"]),
        ([*public, "--student", "full", "--student_unet", "alice/no"], 2, ["--student_unet alice/no is neither"]),
    ]
    commands = json.dumps([quick_words(*words, "--dry_run") for words, _, _ in cases])
    environment = {**os.environ, "HF_TOKEN": ""}
    run = subprocess.run([sys.executable, "-c", RUNS, commands], env=environment, capture_output=True, text=True)
    printed = run.stderr.split("code ")
    assert len(printed) == len(cases) + 1, run.stderr
    for i, (_, code, expected) in enumerate(cases):
        assert printed[i + 1].startswith(str(code)), printed[i]
        if code:
            check_message(printed[i], *expected)
    assert "HTTP Request" not in run.stderr + run.stdout  # of the Hub's client


SERVE = """
from diffusers import DiffusionPipeline
from disback_diffusers import DisBackPipeline

pipe = DisBackPipeline.from_pretrained("alice/pixels-1-step")
assert len(pipe(class_labels=[1, 3]).images) == 2
pipe.push_to_hub("whole")
plain = DiffusionPipeline.from_pretrained("alice/whole")
assert len(plain(batch_size=2, class_labels=[1, 3]).images) == 2
"""


@pytest.mark.slow
def test_a_pixel_teacher_and_its_student_on_the_hub(hub, files):
    folder = Path(save_teacher(files / "local", "cm", classes=4))
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hub.add_repo("alice/pixels", {name: path.read_bytes() for name, path in names.items()})
    words = ("--pretrained_teacher_model alice/pixels --class_labels 1-3 --max_train_steps 3 --lora_rank 2 "
             "--degradation_steps 2 --degradation_nodes 2 --steps_per_node 1 --validation_inference_steps 2 "
             "--output_dir out --push_to_hub --hub_model_id alice/pixels-1-step").split()  # fmt: skip
    launch(words, "--num_processes", "1", script=SCRIPTS / "train_disback_edm.py")
    uploaded = hub.files("alice/pixels-1-step")
    assert {"README.md", LORA_NAME, "samples/card-0.png"} <= uploaded.keys()
    card = uploaded["README.md"].decode()
    assert "class_labels=[1, 2, 3, 1]" in card and "text: class 1" in card and "base_model: alice/pixels" in card
    run = subprocess.run([sys.executable, "-c", SERVE], env=os.environ, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert {"model_index.json", "unet/config.json", "README.md"} <= hub.files("alice/whole").keys()
