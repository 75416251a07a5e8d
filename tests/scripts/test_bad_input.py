# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Whatever is wrong with what the user gives: one line with its name and remedy, an exit code, and nothing lost."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file, save_file
from script_runs import PROMPTS, QUICK, SCRIPT, FileLimit, differences, result, start

from disback_diffusers.models.teachers import StableDiffusionTeacher
from disback_diffusers.training.arguments import parse_args
from disback_diffusers.training.distill import run_script


PREFIX = f"{SCRIPT.name}: error: "
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def files(sd_folder, tmp_path, monkeypatch):
    """An empty current folder but for prompts.txt; the teacher's folder is ./teacher, read only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    (tmp_path / "teacher").symlink_to(sd_folder)
    return tmp_path


def words(*more):
    return [
        "--pretrained_teacher_model",
        "./teacher",
        "--prompt_dataset",
        "prompts.txt",
        "--output_dir",
        "out",
        *QUICK,
        *more,
    ]


@pytest.fixture
def fails(files, monkeypatch, capfd):
    """A function that runs the script with more flags and checks code and message; `early` is before weights load."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])

    def check(flags, *expected, code=2, early=True):
        more = flags.split() if isinstance(flags, str) else flags
        capfd.readouterr()
        got = run_script(lambda: parse_args(words(*more)), StableDiffusionTeacher)
        printed = capfd.readouterr().err
        assert got == code, printed
        check_message(printed, *expected)
        assert not early or not (files / "out").exists()  # which is made just before weights are loaded

    yield check
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def check_message(printed, *expected):
    last = printed.strip().splitlines()[-1]
    assert last.startswith(PREFIX) and printed.count("error: ") == last.count("error: "), printed
    assert "Traceback" not in printed
    assert [part for part in expected if part not in last] == [], last
    assert len(last) < 600


@pytest.fixture
def changed_teacher(files, sd_folder):
    """A function that makes ./changed, a copy of the teacher in which one JSON file has other values."""

    def change(file=None, **values):
        shutil.copytree(sd_folder, files / "changed")
        if file:
            path = files / "changed" / file
            config = {**json.loads(path.read_text()), **values}
            path.write_text(json.dumps({key: value for key, value in config.items() if value != "removed"}))
        return files / "changed"

    return change


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--lora_rnak 4", "--lora_rnak"),
        ("--seed 1 2", "2"),
        ("--lora_rank 0", "--lora_rank"),
        ("--lora_rank four", "--lora_rank"),
        ("--learning_rate -1", "--learning_rate"),
        ("--learning_rate nan", "--learning_rate"),
        ("--learning_rate inf", "--learning_rate"),
        ("--adam_weight_decay nan", "--adam_weight_decay"),
        ("--seed -1", "--seed"),
        ("--student tiny", "--student"),
        ("--conditioning_timestep 0", "--conditioning_timestep"),
        ("--conditioning_timestep 1000", "--conditioning_timestep 1000"),
        ("--degradation_nodes 7", "--degradation_nodes 7"),
        ("--steps_per_node 4", "--steps_per_node 4"),
        ("--resolution 33", "--resolution 33"),
        ("--report_to wandb", "--report_to wandb"),
        ("--report_to nonsense", "--report_to"),
        ("--report_to wandb --hub_token secret", "--hub_token"),
        ("--use_8bit_adam", "--use_8bit_adam"),
        ("--enable_xformers_memory_efficient_attention", "--enable_xformers_memory_efficient_attention"),
        ("--mixed_precision fp16", "--mixed_precision fp16"),
        ("--resume_from_checkpoint nonexistent", "--resume_from_checkpoint nonexistent"),
        ("--config", "--config"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_flags(fails, flags, expected):
    fails(flags, expected)


def test_target_modules_that_match_nothing(fails):
    fails("--lora_target_modules to_q nothing", "--lora_target_modules", "'nothing'", early=False)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("lora_rnak: 4", "lora_rnak"),
        ("lora_rank: four", "--lora_rank"),
        ("gradient_accumulation_steps: 0", "--gradient_accumulation_steps"),
        ("lora_rank: [4, 5]", "'5'"),
        ("lora_rank: {a: 1}", "'lora_rank'"),
        ("compile: perhaps", "--compile"),
        ("student: tiny", "--student"),
        ("lora_rank: [", "settings.yaml"),
        ("lora_rank", "settings.yaml"),
        ("prompt_dataset: 2024-13-45", "settings.yaml"),
        ("variant: \x00", "settings.yaml"),
        (b"variant: \xff", "settings.yaml"),
    ],
)
def test_config_file(fails, files, text, expected):
    (files / "settings.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    fails("--config settings.yaml", expected)


def test_the_command_line_may_mend_what_the_file_alone_would_not_allow(files):
    (files / "settings.yaml").write_text("degradation_nodes: 300\n")
    assert parse_args(words("--config", "settings.yaml", "--degradation_nodes", "3")).degradation_nodes == 3


# ---------------------------------------------------------------------------------------------------------------------
# Teacher


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nobody/nothing", "nothing", "."])
def test_no_teacher(fails, name):
    fails(["--pretrained_teacher_model", name], f"--pretrained_teacher_model {name}")


def test_a_teacher_without_scheduler(fails, changed_teacher):
    shutil.rmtree(changed_teacher() / "scheduler")
    fails("--pretrained_teacher_model ./changed", "./changed", "scheduler/")


@pytest.mark.parametrize(
    "file, values, expected",
    [
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "flow_prediction"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": None}, "beta_schedule"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "LCM"),
        ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("model_index.json", {"_class_name": "removed"}, "no known class"),
        ("model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"}, "StableDiffusionInpaintPipeline"),
    ],
)  # fmt: skip
def test_a_teacher_of_another_kind(fails, changed_teacher, file, values, expected):
    changed_teacher(file, **values)
    fails("--pretrained_teacher_model ./changed", "--pretrained_teacher_model ./changed", expected)


def test_an_sdxl_teacher(fails, sdxl_folder):
    fails(["--pretrained_teacher_model", str(sdxl_folder)], "StableDiffusionXLPipeline", "another script")


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
def test_a_broken_config(fails, changed_teacher, file):
    halve(changed_teacher() / file)
    fails("--pretrained_teacher_model ./changed", "./changed", file.split("/")[0])


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_truncated_weights(fails, changed_teacher, part):
    halve(changed_teacher() / f"{part}.safetensors")
    fails("--pretrained_teacher_model ./changed", "./changed", part.split("_")[0].split("/")[0], early=False)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_lack_a_tensor(fails, changed_teacher, part):
    file = changed_teacher() / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name, *others = tensors
    save_file({key: tensors[key] for key in others}, file, {"format": "pt"})
    fails("--pretrained_teacher_model ./changed", "./changed", f"lacks {name} in {part}/", early=False)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


@pytest.mark.parametrize("flag", ["--prompt_dataset", "--validation_prompts"])
@pytest.mark.parametrize(
    "content, expected",
    [(None, "No such file"), (b"", "no prompt"), (b" \n\n", "no prompt"), (bytes(range(256)) * 9, "UTF-8"),
     (b"a cat\0a dog", "binary"), ("ein Käfer".encode("latin-1"), "UTF-8")],
)  # fmt: skip
def test_prompts(fails, files, flag, content, expected):
    if content is not None:
        (files / "bad.txt").write_bytes(content)
    fails(f"{flag} bad.txt", f"{flag} bad.txt", expected)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("p.jsonl", '{"caption": "a"}\n', "--caption_column"),
        ("p.jsonl", '{"text": "a"}\n{"text": "b"\n', "line 2"),
        ("p.jsonl", '{"text": ["a"]}\n', "--caption_column"),
        ("p.jsonl", '"a"\n', "--caption_column"),
        ("p.csv", "caption\na\n", "--caption_column"),
        ("p.csv", "text,n\na,1\n" + "b" * 200_000 + ",2\n", "p.csv"),
        ("p.csv", "", "no prompt"),
        ("p.parquet", None, "no such file"),
        ("p.parquet", "nonsense", "cannot be loaded"),
        ("p.png", "nonsense", "expected a .txt"),
        ("nobody/nothing", None, "cannot be loaded"),
    ],
)
def test_prompt_files_of_other_kinds(fails, files, name, content, expected):
    if content is not None:
        (files / name).write_text(content)
    fails(f"--prompt_dataset {name}", f"--prompt_dataset {name}", expected)


def test_a_parquet_file_without_that_column(fails, files):
    from datasets import Dataset

    Dataset.from_dict({"caption": ["a"]}).to_parquet(files / "p.parquet")
    fails("--prompt_dataset p.parquet", "'text'", "caption", "--caption_column")


# ---------------------------------------------------------------------------------------------------------------------
# The degradation path, checkpoints and the output folder


@pytest.fixture(scope="module")
def finished_once(sd_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "prompts.txt").write_text(PROMPTS)
    (folder / "teacher").symlink_to(sd_folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        run = start(words())
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
    halve(manifest)
    fails("--degradation_path finished", "manifest.json", "no readable manifest")
    manifest.unlink()
    fails("--degradation_path finished", "--degradation_path: finished", "manifest.json")
    fails("--degradation_path nowhere", "--degradation_path: nowhere", "manifest.json")


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
    fails(other, "manifest.json", "another base", early=False)
    fails("--degradation_path finished --lora_rank 3", "--lora_rank", "000006.safetensors", early=False)
    fails("--degradation_path finished --lora_target_modules to_q", "--lora_target_modules", early=False)


def test_a_folder_with_something_else_is_left_alone(fails, files, finished):
    (files / "file").write_text("precious")
    before = hashes(files)
    fails("--output_dir file", "--output_dir file", "is a file")
    fails("--output_dir file/run", "--output_dir file/run", code=1)
    fails(["--output_dir", "n" * 300], "--output_dir", "too long")
    fails("--output_dir finished", "--output_dir finished", "--resume_from_checkpoint latest")
    other = "--output_dir finished --lora_rank 3 --seed 5 --resume_from_checkpoint latest"
    fails(other, "--output_dir finished", "--seed is 0 there, 5 here", "2 more")
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


@pytest.mark.parametrize("name", ["state.json", "student.safetensors", "ema.safetensors", "learner_fake.pt"])
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
    fails("--output_dir finished --resume_from_checkpoint latest", "--mixed_precision no", early=False)


def test_prompts_that_changed_since_the_checkpoint(fails, finished, files):
    (files / "prompts.txt").write_text(PROMPTS.replace("cat", "dog"))
    fails("--output_dir finished --resume_from_checkpoint latest", "--prompt_dataset", early=False)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def test_no_traceback_from_the_script_itself(files):
    command = [sys.executable, str(SCRIPT), *words("--pretrained_teacher_model", "./nowhere")]
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
    def no_teacher(*args):
        raise error

    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert run_script(lambda: parse_args(words()), no_teacher) == 1
    check_message(capsys.readouterr().err, expected)


def test_numbers_that_are_none(files):
    run = start(words("--degradation_learning_rate", "1e30"))
    assert run.wait() == 1
    check_message(run.output, "nan at degradation step 2, node 1", "learning rates")
    run = start(words("--learning_rate", "1e30", "--output_dir", "other"))
    assert run.wait() == 1
    check_message(run.output, "backtracking step 2, node 2", "--degradation_path other/degradation")


def test_a_full_disk(files, finished_once):
    nothing = FileLimit("open", "prompts.txt", size=0)
    run = start(words(), nothing)
    assert run.wait() == 1
    check_message(run.output, "arguments.yaml cannot be written", "free space")
    assert list((files / "out").iterdir()) == []

    soon = FileLimit("open", "log.jsonl a", 6 + 3, size=5000)  # the log can still be written, a checkpoint cannot
    run = start(words(), soon)
    assert run.wait() == 1
    check_message(run.output, "checkpoint-4", "free space")
    assert not list((files / "out").glob(".*"))

    run = start(words("--resume_from_checkpoint", "latest"))
    assert run.wait() == 0, run.output
    assert "Resumed from out/checkpoint-2" in run.output
    assert differences(result(files / "out"), result(finished_once)) == []
