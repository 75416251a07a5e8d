# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Contexts for stages, without a process of their own."""

import pytest

from disback_diffusers.models.teachers import StableDiffusionTeacher
from disback_diffusers.training.arguments import DistillationArguments
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.setup import build, make_accelerator


PROMPTS = ("a red cat", "a blue dog", "a photo of the square", "on a circle", "the cat")
QUICK = {"degradation_steps": 8, "degradation_nodes": 3, "steps_per_node": 2, "node_switching": "fixed",
         "max_train_steps": 8, "lora_rank": 4, "train_batch_size": 2, "learning_rate": 1e-3,
         "fake_score_learning_rate": 1e-3, "degradation_learning_rate": 1e-3, "guidance_scale": 1.0,
         "resolution": ["16"]}  # fmt: skip


@pytest.fixture
def make_context(sd_folder, tmp_path):
    """A function from settings to a `Context` on the tiny random teacher (or another)."""

    def make(**settings):
        settings = {"pretrained_teacher_model": str(sd_folder), "prompt_dataset": "-", **QUICK, **settings}
        args = DistillationArguments(output_dir=str(tmp_path / "run"), **settings)
        teacher = StableDiffusionTeacher(args.pretrained_teacher_model)
        folder = RunFolder(args.output_dir)
        return build(args, teacher, list(PROMPTS), make_accelerator(args), folder)[0]

    return make
