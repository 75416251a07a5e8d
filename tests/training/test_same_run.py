# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which settings make a resumed run another one."""

import os
import shutil
from itertools import chain

import pytest
import yaml
from stepping import backtracking, steps

from disback_diffusers.errors import UsageError
from disback_diffusers.training.arguments import DistillationArguments, names
from disback_diffusers.training.flags import NOTHING, PATH, RESULT, TEACHER
from disback_diffusers.training.run_folder import RunFolder, different


@pytest.fixture
def folder(tmp_path, monkeypatch, sd_folder):
    shutil.copytree(sd_folder, tmp_path / "sd")
    (tmp_path / "p.txt").write_text("a cat\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**changes):
    return DistillationArguments(**{"pretrained_teacher_model": "sd", "prompt_dataset": "p.txt", **changes}).settings()


def test_the_settings_that_a_run_leaves_are_those_of_a_new_run(folder):
    """After a resumed run too, arguments.yaml can be given to --config."""
    run = RunFolder(folder / "run")
    run.open(settings(resume_from_checkpoint="latest", lora_rank=3))
    run.close()
    left = yaml.safe_load((folder / "run" / "arguments.yaml").read_text())
    assert left["resume_from_checkpoint"] is None and left["lora_rank"] == 3


def test_every_setting_says_what_it_shapes():
    kinds = [names(shapes=kind) for kind in (TEACHER, PATH, RESULT, NOTHING)]
    assert sorted(chain(*kinds)) == sorted(DistillationArguments.defaults())
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


# ---------------------------------------------------------------------------------------------------------------------
# Runs of older versions


# arguments.yaml as version 0.1 left it, of `--pretrained_teacher_model sd --prompt_dataset p.txt`
VERSION_0_1 = """
pretrained_teacher_model: sd
teacher_revision: null
variant: null
pretrained_vae_model_name_or_path: null
prompt_dataset: p.txt
caption_column: text
cache_text_embeddings: 'off'
output_dir: disback-model
seed: 0
resolution: []
train_batch_size: 8
gradient_accumulation_steps: 1
gradient_checkpointing: false
mixed_precision: 'no'
allow_tf32: false
compile: false
enable_xformers_memory_efficient_attention: false
student: lora
student_unet: null
lcm_lora: null
lora_rank: 64
lora_alpha: 64.0
lora_target_modules:
- all
conditioning_timestep: 399
degradation_steps: 200
degradation_nodes: 7
node_spacing: geometric
degradation_learning_rate: 0.0002
degradation_path: null
max_train_steps: 10000
steps_per_node: 100
node_switching: adaptive
no_backtracking: false
fake_score_init: node
fake_score_updates_per_step: 1
gradient_weighting: dmd
guidance_scale: 2.0
fake_guidance_scale: 1.0
guidance_max_timestep: 600
proportion_empty_prompts: 0.1
proportion_later_steps: 0.0
learning_rate: 0.0001
fake_score_learning_rate: 0.0002
lr_scheduler: constant
fake_score_lr_scheduler: null
lr_warmup_steps: 0
adam_beta1: 0.9
adam_beta2: 0.999
adam_weight_decay: 0.0
adam_epsilon: 1.0e-08
max_grad_norm: 1.0
use_8bit_adam: false
ema_decay: 0.99
checkpointing_steps: 500
checkpoints_total_limit: null
resume_from_checkpoint: null
logging_steps: 1
log_mismatch_every: 0
log_fd_every: 0
fd_reference: null
fd_images: 2000
report_to: []
logging_dir: logs
validation_prompts: []
validation_steps: 500
push_to_hub: false
push_degradation_path: false
hub_model_id: null
dry_run: false
"""


def test_a_run_of_version_0_1(folder):
    before, known = yaml.safe_load(VERSION_0_1), {"conditioning_timestep": 399, "mixed_precision": "no"}
    known |= {"guidance_scale": 2.0, "guidance_max_timestep": 600}
    now = settings(steps_per_node=100, node_switching="adaptive", **known)
    assert different(before, now) == []
    assert different(before, settings(**known)) == ["steps_per_node", "node_switching"]  # have other defaults now
    for name in before.keys() - set(names(shapes=NOTHING)) - {"max_train_steps"}:
        assert different(before, {**now, name: "another"}) == [name]

    (folder / "run").mkdir()
    (folder / "run" / "arguments.yaml").write_text(VERSION_0_1)
    (folder / "run" / "README.md").touch()
    RunFolder("run").check(now, resume="latest")
    with pytest.raises(UsageError, match="--learning_rate is 0.0001 there, 0.1 here"):
        RunFolder("run").check({**now, "learning_rate": 0.1}, resume="latest")
    (folder / "run" / "arguments.yaml").write_text(
        VERSION_0_1.replace("lr_scheduler: constant", "lr_scheduler: cosine")
    )
    falling = {**now, "lr_scheduler": "cosine", "max_train_steps": 20_000}
    with pytest.raises(UsageError, match="10000 there, 20000 here. It may differ only where both learning rates are"):
        RunFolder("run").check(falling, resume="latest")


def test_a_run_that_did_not_know_some_settings(folder):
    before = settings()
    del before["push_degradation_path"], before["guidance_max_timestep"]
    before["mixed_precision"] = None  # left to accelerate; the checkpoint has it
    assert different(before, settings(mixed_precision="bf16")) == []
    assert different(before, settings(guidance_max_timestep=500)) == ["guidance_max_timestep"]


@pytest.mark.slow
def test_a_checkpoint_of_version_0_1(make_context, tmp_path):
    """It had other names for the optimizers' files."""
    stage = backtracking(make_context(no_backtracking=True))
    steps(stage, 2)
    stage.save(tmp_path)
    for role in ("student", "fake"):
        (tmp_path / f"optimizer_{role}.pt").rename(tmp_path / f"learner_{role}.pt")
    other = backtracking(make_context(no_backtracking=True))
    other.load(tmp_path)
    assert other.step == 2 and steps(other, 2) == steps(stage, 2)
