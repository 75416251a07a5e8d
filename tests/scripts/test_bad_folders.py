# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Damaged or foreign paths, checkpoints and output folders, full disks: one line, an exit code, and nothing lost."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from script_runs import PROMPTS, SCRIPT, FileLimit, Trap, check_message, differences, quick_words, result, start
from tiny_models import build_small_unet

from disback_diffusers.models.families import StableDiffusion
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.run_folder import LOCK, RunFolder
from disback_diffusers.training.script import run_script


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished_once(sd_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prompts.txt").write_text(PROMPTS)
    (folder / "teacher").symlink_to(sd_folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        run = start(quick_words())
        assert run.wait() == 0, run.output
    finally:
        os.chdir(before)
    return folder / "out"


@pytest.fixture
def finished(finished_once, files):
    """A copy of a finished run, as ./finished."""
    return shutil.copytree(finished_once, files / "finished")


def test_a_path_that_lacks_a_part(fails, finished):
    node = finished / "degradation" / "000003.safetensors"
    halve(node)
    fails("--degradation_path finished", str(node.relative_to(finished)), "sha256")
    node.unlink()
    fails("--degradation_path finished", str(node.relative_to(finished)), "missing")
    manifest = finished / "degradation" / "manifest.json"
    whole = json.loads(manifest.read_text())
    halve(manifest)
    fails("--degradation_path finished", "manifest.json", "no manifest", "Restore it")
    for wrong in (
        {"complete": "no"},
        {"nodes": whole["nodes"][::-1]},
        {"nodes": [whole["nodes"][0], *whole["nodes"]]},
    ):
        manifest.write_text(json.dumps({**whole, **wrong}))
        fails("--degradation_path finished", "manifest.json", "no manifest", "Restore it")
    manifest.unlink()
    fails("--degradation_path finished", "--degradation_path finished", "manifest.json")
    fails("--degradation_path nowhere", "--degradation_path nowhere", "manifest.json")


def test_a_path_that_was_not_recorded_to_its_end(fails, finished):
    manifest = finished / "degradation" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    fails("--degradation_path finished", "--degradation_path finished", "resume that run")


def test_a_path_of_another_kind_of_run(fails, finished, files, changed_teacher):
    file = changed_teacher() / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value + 1e-2 for key, value in load_file(file).items()}, file, {"format": "pt"})
    other = "--pretrained_teacher_model ./changed --degradation_path finished"
    fails("--degradation_path finished --conditioning_timestep 299", "--conditioning_timestep 399")
    fails("--degradation_path finished --steps_per_node 8", "--steps_per_node 8")
    fails("--degradation_path finished --lora_rank 3", "--degradation_path finished", "--lora_rank 2, here it is 3")
    fails("--degradation_path finished --lora_target_modules to_q", "--degradation_path finished", "['to_q']: set the")
    fails(other, "--degradation_path finished/degradation/manifest.json was recorded on another base", early=False)


def test_only_a_path_that_is_walked_takes_updates(fails, finished, small_unet):
    manifest = finished / "degradation" / "manifest.json"
    record = json.loads(manifest.read_text())
    flags = f"--student full --student_unet {small_unet} --node_switching adaptive --degradation_path finished"

    def set_untrained(value):
        settings = {**record["settings"], "student_unet": "fingerprint"}
        manifest.write_text(json.dumps({**record, "settings": settings, "untrained": value}))

    measured = {"error": 1.0, "teacher_error": 0.1, "variation": 2.1, "teacher_variation": 2.0}
    set_untrained(measured)
    run = start(quick_words(*flags.split(), "--steps_per_node", "8", "--dry_run"))
    assert run.wait() == 0, run.output
    set_untrained({**measured, "variation": 1.9})
    fails(f"{flags} --steps_per_node 8", "--steps_per_node 8")
    set_untrained(None)
    fails(flags, "manifest.json", "untrained", "--node_switching adaptive", "fixed")


def test_a_path_that_was_recorded_anew_since_the_checkpoint(fails, finished, files):
    words = quick_words("--degradation_path", "finished/degradation")
    run = start(words, Trap("open", "log.jsonl a", 6))
    assert run.wait() == -signal.SIGKILL
    manifest = finished / "degradation" / "manifest.json"
    node = finished / "degradation" / "000003.safetensors"
    save_file({key: value + 1 for key, value in load_file(node).items()}, node, safe_open(node, "pt").metadata())
    nodes = json.loads(manifest.read_text())
    nodes["nodes"][2]["sha256"] = hashlib.sha256(node.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(nodes))
    flags = "--degradation_path finished/degradation --resume_from_checkpoint latest"
    fails(flags, "out/checkpoint-4", "another path", early=False)


def test_a_path_of_an_lcm_lora(fails, finished):
    manifest = finished / "degradation" / "manifest.json"
    settings = json.loads(manifest.read_text())
    settings["settings"]["lcm_lora"] = "some/lcm-lora"
    manifest.write_text(json.dumps(settings))
    fails("--degradation_path finished", "--degradation_path finished", "--lcm_lora")


def test_a_path_of_another_student_unet(fails, finished, small_unet):
    flags = f"--student full --student_unet {small_unet} --degradation_path finished"
    fails(flags, "--degradation_path finished", "--student_unet")


def test_a_path_of_other_weights_of_the_student_unet(fails, files, small_unet):
    flags = f"--student full --student_unet {small_unet}"
    assert start(quick_words(*flags.split(), "--output_dir", "finished")).wait() == 0
    manifest = json.loads((files / "finished" / "degradation" / "manifest.json").read_text())
    assert str(small_unet.parent) not in str(manifest["settings"]) and manifest["untrained"]["variation"] > 0
    again = quick_words(*flags.split(), "--degradation_path", "finished", "--output_dir", "again")
    assert start([*again, "--degradation_steps", "99", "--degradation_nodes", "5"]).wait() == 0
    method = json.loads((files / "again" / "disback_config.json").read_text())["method"]
    assert (method["degradation_steps"], method["degradation_nodes"]) == (6, 3), "those of the path"
    build_small_unet(seed=9).save_pretrained(files / "other")
    flags = f"{flags.replace(str(small_unet), 'other')} --degradation_path finished"
    fails(flags, "--degradation_path finished", "--student_unet", early=False)


def test_a_folder_with_something_else_is_left_alone(fails, files, finished):
    (files / "file").write_text("precious")
    before = hashes(files)
    fails("--output_dir file", "--output_dir file", "is a file")
    fails("--output_dir file/run", "file is a file", "choose another")
    fails(["--output_dir", "n" * 300], "--output_dir", "too long")
    fails("--output_dir finished", "--output_dir finished", "--resume_from_checkpoint latest")
    other = "--output_dir finished --lora_rank 3 --seed 5 --resume_from_checkpoint latest"
    fails(other, "--output_dir finished", "--lora_rank is 2 there, 3 here", "2 more")
    fails("--output_dir finished --resume_from_checkpoint nothing", "--resume_from_checkpoint nothing", "checkpoint-8")
    fails(
        "--output_dir finished --resume_from_checkpoint checkpoint-2",
        "--resume_from_checkpoint checkpoint-2",
        "latest",
    )
    assert hashes(files) == before
    (finished / "arguments.yaml").write_text("- no\n- settings")
    fails("--output_dir finished --resume_from_checkpoint latest", "arguments.yaml")
    (finished / "arguments.yaml").unlink()
    fails("--output_dir finished --resume_from_checkpoint latest", "--output_dir finished holds log.jsonl")


def test_another_program_s_checkpoints_are_left_alone(fails, files):
    (files / "other" / "checkpoint-500").mkdir(parents=True)
    fails("--output_dir other", "--output_dir other holds checkpoint-500")


@pytest.mark.parametrize("folder", ["/proc/disback", "/sys"])
def test_a_folder_that_cannot_be_written_to(fails, folder):
    """In /proc and /sys even root cannot make a file."""
    fails(f"--output_dir {folder}", folder, code=1)


@pytest.mark.parametrize("name", ["state.json", "student.safetensors", "ema.safetensors", "optimizer_fake.pt"])
def test_a_damaged_checkpoint(fails, finished, name):
    file = finished / "checkpoint-8" / name
    halve(file)
    fails("--output_dir finished --resume_from_checkpoint latest", "checkpoint-8", "delete it", early=False)


def test_a_damaged_adapter_of_a_checkpoint(fails, finished):
    halve(finished / "checkpoint-8" / "fake.safetensors")
    fails(
        "--output_dir finished --resume_from_checkpoint latest", "checkpoint-8/fake.safetensors", "delete", early=False
    )


def test_another_precision_than_the_checkpoint_s(fails, finished, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    fails("--output_dir finished --resume_from_checkpoint latest", "--mixed_precision is no there, bf16 here")


def test_prompts_that_changed_since_the_checkpoint(fails, finished, files):
    (files / "prompts.txt").write_text(PROMPTS.replace("cat", "dog"))
    fails("--output_dir finished --resume_from_checkpoint latest", "--prompt_dataset", early=False)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def test_no_traceback_from_the_script_itself(files):
    command = [sys.executable, str(SCRIPT), *quick_words("--pretrained_teacher_model", "./nowhere")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2
    check_message(run.stderr, "--pretrained_teacher_model ./nowhere")


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA"), "--gradient_checkpointing"),
        (OSError(errno.ENOSPC, "No space left"), "free space"),
    ],
)
def test_what_the_machine_lacks(files, capsys, monkeypatch, error, expected):
    class NoTeacher(StableDiffusion):
        def __init__(self, source):
            raise error

    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert run_script(lambda: parse_args(quick_words()), NoTeacher) == 1
    check_message(capsys.readouterr().err, expected)


def test_numbers_that_are_none(files):
    run = start(quick_words("--degradation_learning_rate", "1e30"))
    assert run.wait() == 1
    check_message(run.output, "nan at degradation step 2, node 1", "learning rates")
    run = start(quick_words("--learning_rate", "1e30", "--output_dir", "other"))
    assert run.wait() == 1
    check_message(run.output, "backtracking step 2, node 2", "--degradation_path other/degradation")


def test_numbers_that_are_none_in_a_further_fake_update_do_not_reach_a_checkpoint(files):
    """Its learning rate throws the fake score off in the update before."""
    words = "--fake_score_learning_rate 1e30 --fake_score_updates_per_step 2 --checkpointing_steps 1".split()
    run = start(quick_words(*words))
    assert run.wait() == 1
    check_message(run.output, "backtracking step 1")
    assert not list((files / "out").glob("checkpoint-[0-9]*"))


def test_a_run_that_met_no_number_can_go_on_from_its_last_checkpoint(files):
    """The student is spoilt in between, by hand, and then put right."""
    run = start(quick_words(), Trap("open", "log.jsonl a", 6 + 6))
    assert run.wait() == -signal.SIGKILL
    student = files / "out" / "checkpoint-4" / "student.safetensors"
    good = student.read_bytes()
    save_file({key: value + 1e30 for key, value in load_file(student).items()}, student)
    run = start(quick_words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 1, run.output
    check_message(run.output, "backtracking step 5, node 0")
    assert (files / "out" / "checkpoint-4" / "state.json").is_file()
    student.write_bytes(good)
    run = start(quick_words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 0, run.output


def test_two_runs_at_once(files):
    folder = RunFolder("out")
    folder.open({})
    run = start(quick_words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 2
    check_message(run.output, "--output_dir out is in use by another run")
    folder.close()


def test_a_file_system_without_locks_is_a_warning(files, monkeypatch, caplog):
    def no_locks(*args, **kwargs):
        raise NotImplementedError

    folder = RunFolder("out")
    monkeypatch.setattr(folder._lock, "acquire", no_locks)
    folder.open({})
    assert "out is on a file system without locks" in caplog.text and (files / "out" / "arguments.yaml").is_file()


@pytest.fixture
def small_disk(files):
    """./disk, a file system of 256 KiB."""
    (files / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(files / "disk")]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield files / "disk"
    subprocess.run(["umount", str(files / "disk")], check=True)


def test_a_small_disk(small_disk, files, finished_once):
    """Full for good in the middle of the run; the run goes on elsewhere from what fitted."""
    run = start(quick_words("--output_dir", "disk/out"))
    assert run.wait() == 1
    check_message(run.output, "disk/out", "free")
    shutil.copytree(small_disk / "out", files / "out")
    run = start(quick_words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 0, run.output
    assert "Resumed from out/checkpoint" in run.output
    assert differences(result(files / "out"), result(finished_once)) == []


def test_a_full_disk(files, finished_once):
    nothing = FileLimit("open", "prompts.txt", size=0)
    run = start(quick_words(), nothing)
    assert run.wait() == 1
    check_message(run.output, "arguments.yaml cannot be written", "free space")
    assert [path.name for path in (files / "out").iterdir()] == [LOCK]

    soon = FileLimit("open", "log.jsonl a", 6 + 3, size=5000)  # the log can still be written, a checkpoint cannot
    run = start(quick_words(), soon)
    assert run.wait() == 1
    check_message(run.output, "checkpoint-4", "free space")
    assert [path.name for path in (files / "out").glob(".*")] == [LOCK]

    run = start(quick_words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 0, run.output
    assert "Resumed from out/checkpoint-2" in run.output
    assert differences(result(files / "out"), result(finished_once)) == []
