# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A run from Python, as the README shows it."""

import re
from pathlib import Path

import pytest

from disback_diffusers import DisBackPipeline, DistillationArguments, UsageError


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHORT = ("max_train_steps=8, degradation_steps=4, degradation_nodes=2, lora_rank=2, train_batch_size=2, "
         "validation_steps=0")  # fmt: skip


@pytest.mark.slow
def test_the_example_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "distill(" in code]
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 5
    names = {}
    exec(example.replace("max_train_steps=300", SHORT), names)
    assert names["image"].size == (32, 32) and isinstance(names["pipe"], DisBackPipeline)
    assert names["folder"] == Path("disback-model")
    assert (names["folder"] / "pytorch_lora_weights.safetensors").is_file()


def test_every_flag_is_a_keyword_argument_and_nothing_else_is():
    args = DistillationArguments(pretrained_teacher_model="embedded", prompt_dataset="embedded", lora_rank=3)
    assert args.student.lora_rank == args["lora_rank"] == 3 and args["lora_alpha"] == 3
    with pytest.raises(TypeError, match="has no setting 'rank'"):
        DistillationArguments(pretrained_teacher_model="embedded", rank=3)
    with pytest.raises(UsageError, match="--lora_rank must be a number greater than 0, not 0"):
        DistillationArguments(pretrained_teacher_model="embedded", lora_rank=0)
