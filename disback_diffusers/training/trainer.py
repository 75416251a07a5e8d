# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The loop around a stage: progress, log, samples, checkpoints, and stopping in good order."""

import math
import os
import signal
import time

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import RunError


MOST_SKIPPED = 30  # the scale starts at 2**16 and is halved each time
RESUME = "To go on, give the same command with --resume_from_checkpoint latest."


class Interrupted(RunError):
    """The user (Ctrl-C) or the system (SIGTERM) stopped the run; a checkpoint was saved."""


class Trainer:
    """Runs stages.

    Args:
        context (`Context`).
        folder (`RunFolder`).
        validator (`Validator`): draws samples of stage 2.
        probes (*optional*): each measures the student `every` so many updates of stage 2; called, it returns metrics.
    """

    def __init__(self, context, folder, validator, probes=()):
        self.context, self.folder, self.validator, self.probes = context, folder, validator, probes
        self.args, self.accelerator = context.args, context.accelerator
        self._signalled = False  # this process was told to stop
        self._stop = False  # all processes agreed to
        self._skipped = 0  # updates in a row that the fp16 scaler left out

    def run(self, stage):
        """From where the stage stands to its end.

        Raises:
            RunError: a metric is not finite, or a file cannot be written.
            Interrupted: stopped by a signal, after saving a checkpoint.
        """
        if stage.step == 0:
            stage.start()
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        bar = tqdm(
            total=stage.total_steps,
            initial=stage.step,
            desc=stage.name,
            disable=not self.context.is_main,
            dynamic_ncols=True,
        )
        try:
            with bar:
                while stage.step < stage.total_steps:
                    self._step(stage, bar)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        stage.finish()

    def _step(self, stage, bar):
        step, start = stage.step + 1, time.perf_counter()
        node = stage.node
        metrics = self._shared(stage.train_step(step))
        self._check(stage, step, node, metrics)
        stage.after_step(step, metrics)
        stage.step = step
        seconds = time.perf_counter() - start
        measured = self._measure(stage)
        self._report(stage, node, {**metrics, **measured}, seconds, bar, always=bool(measured))
        last = step == stage.total_steps
        if last or self._stop or step % self.args.checkpointing_steps == 0:
            saved = self.save(stage)
        if stage.name == "backtracking" and (last or self._due(step, self.args.validation_steps)):
            self.validate(stage)
        if self._stop and not last:
            raise Interrupted(f"Stopped at {stage.name} step {step}; {saved} is saved. {RESUME}")

    def _measure(self, stage):
        metrics = {}
        for probe in self.probes:
            if stage.name == "backtracking" and self._due(stage.step, probe.every):
                metrics.update(probe())
        return metrics

    @staticmethod
    def _due(step, every):
        return every > 0 and step % every == 0

    def _on_signal(self, number, frame):
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once
        self._signalled = True
        if self.context.is_main:
            os.write(2, b"\nStopping after this step; Ctrl-C stops at once, without a checkpoint.\n")  # safe in here

    def _shared(self, metrics):
        """Metrics as numbers, averaged over the processes, so that all of them decide alike; likewise a signal."""
        stop = torch.tensor(float(self._signalled)).to(self._device)
        values = torch.stack([*(value.float() for value in metrics.values()), stop])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        *numbers, stop = values.tolist()
        self._stop = stop > 0
        return dict(zip(metrics, numbers))

    @property
    def _device(self):
        return self.accelerator.device

    def _check(self, stage, step, node, metrics):
        infinite = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        self._skipped = self._skipped + 1 if infinite else 0
        for name, value in infinite.items():
            # With fp16 the gradient scaler leaves such an update out, and scales less, down to 1 if it must.
            scaled = name.startswith("grad_norm") and self.accelerator.mixed_precision == "fp16"
            if not scaled or self._skipped > MOST_SKIPPED:
                path = stage.path if stage.name == "backtracking" else None
                reuse = f", with --degradation_path {path.folder}" if path else ""
                raise RunError(
                    f"{name} is {value} at {stage.name} step {step}, node {node}: start again in another --output_dir"
                    f"{reuse}, with lower learning rates, or with bf16 instead of fp16."
                )

    def _report(self, stage, node, metrics, seconds, bar, always):
        shown = {name: f"{value:.3g}" for name, value in metrics.items() if not name.startswith("grad_norm")}
        bar.set_postfix({"node": node, **shown}, refresh=False)
        bar.update()
        last = stage.step == stage.total_steps
        if last or always or self._due(stage.step, self.args.logging_steps):
            record = {
                "stage": stage.name,
                "node": node,
                "step": stage.step,
                **{name: value if math.isfinite(value) else None for name, value in metrics.items()},
                "seconds_per_step": round(seconds, 4),
            }
            if self.context.is_main:
                self.folder.log(record)
            values = {f"{stage.name}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
            self.accelerator.log({**values, f"{stage.name}/node": node}, step=self._global_step(stage))

    def _global_step(self, stage):
        """Trackers want one rising count: stage 2 goes on where stage 1 ended."""
        return stage.step + (self.args.degradation_steps if stage.name == "backtracking" else 0)

    def validate(self, stage):
        if not self.context.is_main:
            return
        sheet = self.validator.draw(stage.step)
        for tracker in self.accelerator.trackers if sheet else ():
            if tracker.name in ("tensorboard", "wandb"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": np.asarray(sheet)[None]}, self._global_step(stage), **layout)

    def save(self, stage):
        """Write a checkpoint; no process goes on, or ends, before it is there."""
        saved = None
        if self.context.is_main:
            saved = self.folder.save(stage.name, stage.step, stage.save, self.args.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()
        return saved
