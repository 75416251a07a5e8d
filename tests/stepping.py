# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stages as a run makes them, and running them without the trainer."""

from pathlib import Path

from disback_diffusers.training.degradation import DegradationRecording
from disback_diffusers.training.path import DegradationPath


def recording(context, folder, nodes=None):
    """Stage 1 at its start; its path is a new one in this folder."""
    args, path = context.args, DegradationPath(Path(folder), context.roles.fingerprint)
    nodes = nodes or args.path.degradation_nodes
    return DegradationRecording(*context.parts, args.optimization, args.path, path, nodes)


def backtracking(context, path=None):
    """Stage 2 at its start, as `Distillation` makes it; without a path the teacher is the only target."""
    taker = Taker()
    run = context.distillation(taker)
    run.stage_2(path, run.walk(path), checkpoint=None)
    return taker.stage


class Taker:
    """In the place of a trainer: takes the stage and does not run it."""

    def run(self, stage):
        self.stage = stage


def steps(stage, n):
    """Run n steps as the trainer does; the metrics of each, as numbers."""
    history = []
    if stage.step == 0:
        stage.start()
    for step in range(stage.step + 1, stage.step + n + 1):
        metrics = {name: float(value) for name, value in stage.train_step(step).items()}
        stage.record(step, metrics)
        stage.after_step(step)
        stage.step = step
        history.append(metrics)
    return history
