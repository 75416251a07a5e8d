# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The loop around a stage, with a stage that trains nothing."""

import pytest
import torch

from disback_diffusers.errors import RunError
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.stage import Stage
from disback_diffusers.training.trainer import MOST_SKIPPED, Trainer
from disback_diffusers.training.validation import Validator


class Given(Stage):
    """Answers given metrics."""

    name, node = "degradation", 0

    def __init__(self, context, metrics):
        super().__init__(context, len(metrics))
        self.metrics = metrics

    def train_step(self, step):
        return {name: torch.tensor(value) for name, value in self.metrics[step - 1].items()}


@pytest.fixture
def run(make_context, tmp_path, monkeypatch):
    """A function that runs a stage with these metrics, under fp16 as far as the trainer can see."""

    def run(*metrics):
        context, folder = make_context(checkpointing_steps=1000), RunFolder(tmp_path / "run")
        monkeypatch.setattr(type(context.accelerator), "mixed_precision", "fp16")
        folder.open(context.args.settings())
        Trainer(context, folder, validator=None).run(Given(context, metrics))
        return (tmp_path / "run" / "log.jsonl").read_text()

    return run


OVERFLOW = {"loss": 1.0, "grad_norm_student": float("inf")}
FINE = {"loss": 1.0, "grad_norm_student": 1.0}


def test_the_fp16_scaler_may_leave_out_some_updates(run):
    log = run(*[OVERFLOW] * MOST_SKIPPED, FINE, *[OVERFLOW] * MOST_SKIPPED, FINE)
    assert "Infinity" not in log and '"grad_norm_student": null' in log


def test_but_not_all(run):
    with pytest.raises(RunError, match="grad_norm_student is inf at degradation step 31"):
        run(*[OVERFLOW] * (MOST_SKIPPED + 1), FINE)


def test_a_loss_is_never_left_out(run):
    with pytest.raises(RunError, match="loss is nan at degradation step 2"):
        run(FINE, {"loss": float("nan"), "grad_norm_student": 1.0})


def test_samples_are_drawn_one_by_one(make_context, tmp_path):
    """However many prompts there are: memory was planned for training."""
    context = make_context(guidance_scale=2.0)
    prompts = ["a red cat"] * 5
    validator = Validator(context, prompts, context.batches.bank.encode(prompts), tmp_path)
    sizes = set()
    context.roles.unet.register_forward_pre_hook(lambda module, args: sizes.add(len(args[0])))
    validator.draw(3)
    assert sizes == {1, 2} and (tmp_path / "step-3.png").is_file()
