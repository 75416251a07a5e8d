# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The loop around a stage, mostly with a stage that trains nothing."""

import json
import math
import signal
import sys
from pathlib import Path

import pytest
import torch
from stepping import backtracking, recording

import disback_diffusers
from disback_diffusers.errors import RunError
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.stage import Stage
from disback_diffusers.training.trainer import MOST_SKIPPED, Interrupted


class Given(Stage):
    """Returns given metrics; `at` is called with each step, and metrics are waited for at steps in `waits`."""

    name, node = "degradation", 0

    def __init__(self, context, metrics, at=lambda step: None, waits=()):
        super().__init__(*context.parts, context.args.optimization, len(metrics))
        self.metrics, self.at, self.waits, self.seen = metrics, at, waits, []

    def train_step(self, step):
        self.at(step)
        self.seen.append(("trained", step))
        return {name: torch.tensor(value) for name, value in self.metrics[step - 1].items()}

    def waits_for(self, step):
        return step in self.waits

    def record(self, step, metrics):
        self.seen.append((step, metrics))

    def after_step(self, step):
        self.seen.append(("done", step))


@pytest.fixture
def train(make_context, tmp_path):
    """A function that runs a stage with these metrics, under fp16 as far as the trainer can see, and returns it."""

    def train(*metrics, precision="fp16", at=lambda step: None, waits=(), **settings):
        context, folder = make_context(**{"checkpointing_steps": 1000, **settings}), RunFolder(tmp_path / "run")
        context.parallel.precision = precision
        folder.open(context.args.settings())
        stage = train.stage = Given(context, metrics, at, waits)
        context.trainer(folder).run(stage)
        return stage

    return train


@pytest.fixture
def log(tmp_path):
    """A function that returns the text of the log."""
    return lambda: (tmp_path / "run" / "log.jsonl").read_text()


def checkpoints(tmp_path):
    return sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))


# ---------------------------------------------------------------------------------------------------------------------
# What is not finite


OVERFLOW = {"loss": 1.0, "grad_norm_student": math.inf}
FINE = {"loss": 1.0, "grad_norm_student": 1.0}
NAN = {"loss": math.nan, "grad_norm_student": 1.0}


def test_the_fp16_scaler_may_leave_out_some_updates(train, log):
    train(*[OVERFLOW] * MOST_SKIPPED, FINE, *[OVERFLOW] * MOST_SKIPPED, FINE)
    assert "Infinity" not in log() and '"grad_norm_student": null' in log()


@pytest.mark.parametrize("every", [1, 4])
def test_but_not_all(train, every):
    with pytest.raises(RunError, match="grad_norm_student is inf at degradation step 31"):
        train(*[OVERFLOW] * (MOST_SKIPPED + 1), FINE, logging_steps=every)


def test_in_other_precisions_none(train):
    with pytest.raises(RunError, match="grad_norm_student is inf at degradation step 1"):
        train(OVERFLOW, FINE, precision="bf16")


def test_a_loss_is_never_left_out(train):
    with pytest.raises(RunError, match="loss is nan at degradation step 2"):
        train(FINE, NAN)


def test_it_is_found_at_the_next_logged_step(train, log):
    with pytest.raises(RunError, match="loss is nan at degradation step 6"):
        train(*[FINE] * 5, NAN, *[FINE] * 6, logging_steps=4)
    assert [step for what, step in train.stage.seen if what == "trained"] == list(range(1, 9))
    assert [json.loads(line)["step"] for line in log().splitlines()] == [4]


def test_it_is_found_before_a_checkpoint_is_saved(train, tmp_path):
    with pytest.raises(RunError, match="loss is nan at degradation step 4"):
        train(*[FINE] * 3, NAN, *[FINE] * 6, logging_steps=100, checkpointing_steps=3)
    assert checkpoints(tmp_path) == ["checkpoint-degradation-3"] and train.stage.step == 5


def test_it_is_found_before_a_stage_uses_the_metrics(train):
    with pytest.raises(RunError, match="loss is nan at degradation step 2"):
        train(FINE, NAN, *[FINE] * 6, logging_steps=100, waits=[3])
    assert train.stage.seen[-2:] == [("trained", 3), (1, FINE)]  # and neither recorded nor `done`


# ---------------------------------------------------------------------------------------------------------------------
# Metrics are read where they are needed


def test_a_stage_records_all_metrics_in_order_before_it_needs_them(train, log):
    metrics = [{"loss": float(step), "gap": 0.5} for step in range(1, 7)]
    stage = train(*metrics, logging_steps=4, waits=[2])
    steps = [("trained", 1), ("done", 1), ("trained", 2), *enumerate(metrics[:2], 1), ("done", 2),
             ("trained", 3), ("done", 3), ("trained", 4), *enumerate(metrics[2:4], 3), ("done", 4),
             ("trained", 5), ("done", 5), ("trained", 6), *enumerate(metrics[4:], 5), ("done", 6)]  # fmt: skip
    assert stage.seen == steps
    assert all(type(value) is float for what, found in stage.seen if type(what) is int for value in found.values())
    logged = [json.loads(line) for line in log().splitlines()]
    assert [(line["step"], line["loss"]) for line in logged] == [(4, 4.0), (6, 6.0)]


PACKAGE = str(Path(disback_diffusers.__file__).parent)
READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
# These read tensors that are on the CPU on every machine: times that were given as such, and random numbers.
ON_THE_CPU = {"noise.py:_check_range", "noise.py:_times_on", "batches.py:_prompt", "batches.py:_bucket"}


@pytest.fixture
def reads(monkeypatch):
    """A list of the values of tensors that functions of the package read, as file:function."""
    found = []

    def watch(name):
        read = getattr(torch.Tensor, name)

        def watched(tensor, *args, **kwargs):
            code = sys._getframe(1).f_code
            place = f"{Path(code.co_filename).name}:{code.co_name}"
            if code.co_filename.startswith(PACKAGE) and place not in ON_THE_CPU:
                found.append(place)
            return read(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in READS:
        watch(name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
@pytest.mark.parametrize("stage", ["degradation", "backtracking"])
def test_between_logged_steps_nothing_waits_for_the_gpu(make_context, tmp_path, reads, student, stage):
    """As the host does where a tensor becomes a number."""
    context = make_context(
        student=student,
        logging_steps=4,
        guidance_scale=2.0,
        gradient_accumulation_steps=2,
        fake_score_updates_per_step=2,
        no_backtracking=True,
    )
    stage = recording(context, tmp_path / "path", nodes=1) if stage == "degradation" else backtracking(context)
    folder, by_step, train_step = RunFolder(tmp_path / "run"), {}, stage.train_step

    def marked(step):
        by_step[step - 1] = reads.copy()  # since the step before began
        reads.clear()
        return train_step(step)

    stage.train_step = marked
    folder.open(context.args.settings())
    context.trainer(folder).run(stage)
    by_step[8] = reads
    assert {step: found for step, found in by_step.items() if step % 4} == {step: [] for step in (1, 2, 3, 5, 6, 7)}
    assert by_step[4] == ["pending.py:read"] and "pending.py:read" in by_step[8]


# ---------------------------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves_it(train, tmp_path, number, capfd):
    def at(step):
        if step == 2:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="Stopped at degradation step 2; .*checkpoint-degradation-2 is saved"):
        train(*[FINE] * 8, at=at, logging_steps=100)
    assert train.stage.seen == [("trained", 1), ("done", 1), ("trained", 2), (1, FINE), (2, FINE), ("done", 2)]
    assert checkpoints(tmp_path) == ["checkpoint-degradation-2"]
    assert "Saving a checkpoint after this update" in capfd.readouterr().err and signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once(train, tmp_path):
    def at(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(*[FINE] * 8, at=at)
    assert train.stage.seen[-1] == ("done", 1) and not checkpoints(tmp_path)
