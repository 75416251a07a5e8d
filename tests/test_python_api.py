# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A run from Python, as the README shows it."""

import json
import re
from pathlib import Path

import pytest
import torch

from disback_diffusers import DisBackPipeline, DistillationArguments, UsageError, distill


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SHORT = ("max_train_steps=8, degradation_steps=4, degradation_nodes=2, lora_rank=2, train_batch_size=2, "
         "validation_steps=0, validation_inference_steps=4")  # fmt: skip


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
    with pytest.raises(TypeError, match=r"has no setting 'class_label'; did you mean class_labels\?"):
        DistillationArguments(pretrained_teacher_model="x", class_label="0")
    with pytest.raises(TypeError, match="has no setting 'rank'"):
        DistillationArguments(pretrained_teacher_model="embedded", rank=3)
    with pytest.raises(UsageError, match="--lora_rank must be a number greater than 0, not 0"):
        DistillationArguments(pretrained_teacher_model="embedded", lora_rank=0)


@pytest.mark.slow
def test_runs_of_one_process_do_not_shape_each_other(tmp_path, sd_folder, monkeypatch):
    """Nor the arguments: the precision and the timestep of a run are not left in them."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = {"pretrained_teacher_model": str(sd_folder), "prompt_dataset": "embedded", "no_backtracking": True,
                "max_train_steps": 2, "lora_rank": 2, "train_batch_size": 2, "validation_steps": 0,
                "validation_prompts": ["a cat"], "validation_inference_steps": 2}  # fmt: skip
    precisions = {}
    for precision in ("bf16", None, "fp16", "no"):
        more = {"mixed_precision": precision, "allow_tf32": precision == "bf16"}
        args = DistillationArguments(**settings, **more, output_dir=str(tmp_path / str(precision)))
        if precision == "fp16":
            with pytest.raises(UsageError, match="--mixed_precision fp16 needs a GPU"):
                distill(args)
            continue
        config = json.loads((distill(args) / "disback_config.json").read_text())
        precisions[precision] = config["method"]["mixed_precision"]
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "bf16")
        assert args.system.mixed_precision == precision and args.student.conditioning_timestep is None
    assert precisions == {"bf16": "bf16", None: "no", "no": "no"}
