# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The loop around a stage: progress, log, samples, checkpoints, and stopping in good order."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..errors import RunError
from ..evaluation.health import BANDS, Monitor
from .best import BestStudent
from .parallel import Replicated
from .pending import PendingMetrics
from .run_folder import RunFolder
from .run_settings import RunArguments
from .stage import Stage
from .validation import Validator


logger = logging.getLogger(__name__)
MOST_SKIPPED = 30  # the scale starts at 2**16 and is halved each time
NOT_SHOWN = ("grad_norm", "relative_gap", "score_")  # on the progress bar, which is one line
MEASURED = "diversity"  # in the metrics of a step in which the health was measured
RESUME = "To go on, give the same command with --resume_from_checkpoint latest."


class Interrupted(RunError):
    """The user (Ctrl-C) or the system (SIGTERM) stopped the run; a checkpoint was saved."""


class Trainer:
    """Runs stages. Between the steps that are logged it does not wait for the GPU.

    Args:
        accelerator (`Accelerator`): for its trackers.
        parallel (`Replicated`).
        folder (`RunFolder`).
        settings (`RunArguments`): when to log, save and validate.
        validator (`Validator`, *optional*): generates samples of the student.
        best (`BestStudent`, *optional*): keeps the student with the lowest value of a metric.
        probes (*optional*): each measures the student every `every` updates; called, it returns metrics by name.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        parallel: Replicated,
        folder: RunFolder,
        settings: RunArguments,
        validator: Validator | None = None,
        probes: Iterable = (),
        best: BestStudent | None = None,
    ):
        self.accelerator, self.parallel, self.folder, self.settings = accelerator, parallel, folder, settings
        self.validator, self.probes, self.best = validator, list(probes), best
        self._pending, self._monitor = PendingMetrics(parallel), None
        self._signalled = False  # this process got a signal to stop
        self._stop = False  # all processes agreed to
        self._skipped = 0  # updates in a row that the fp16 scaler left out

    def run(self, stage: Stage) -> None:
        """From where the stage is to its end.

        Raises:
            RunError: a metric is not finite, or a file cannot be written.
            Interrupted: stopped by a signal, after saving a checkpoint.
        """
        if stage.step == 0:
            stage.start()
        self._monitor = Monitor(stage.total_steps)
        for record in self.folder.records(stage.name) if self.parallel.is_main else ():
            self._watch(record["step"], record)  # what was logged before this run was resumed
        bar = tqdm(
            total=stage.total_steps,
            initial=stage.step,
            desc=stage.title,
            disable=not self.parallel.is_main,
            dynamic_ncols=True,
        )
        with self._signals(), bar:
            self._pending.restart_clock()
            while stage.step < stage.total_steps:
                self._step(stage, bar)
        stage.finish()

    def _step(self, stage, bar):
        step = stage.step + 1
        self._pending.add(step, stage.node, stage.train_step(step))
        probes = [probe for probe in self.probes if stage.trains_student and due(step, probe.every)]
        last, saves = step == stage.total_steps, due(step, self.settings.checkpointing_steps)
        logs = last or probes or due(step, self.settings.logging_steps)
        metrics = None
        if logs or saves or stage.waits_for(step) or (self._signalled and self.parallel.world == 1):
            metrics = self._read(stage)
        stage.after_step(step)
        stage.step = step
        if logs:
            self._report(stage, *metrics, probes, bar)
        bar.update()
        saved = self.save(stage) if last or saves or self._stop else None
        if stage.trains_student and (last or due(step, self.settings.validation_steps)):
            self.validate(stage)
        if self._stop and not last:
            raise Interrupted(f"Stopped at {stage.name} step {step}; {saved} is saved. {RESUME}")
        if metrics:
            self._pending.restart_clock()  # without the time of measuring and saving

    def _read(self, stage):
        """The node, the metrics and the seconds of the last step, once all pending ones are known and finite."""
        steps, seconds, self._stop = self._pending.read(self._signalled)
        for step, node, metrics in steps:
            self._check(stage, step, node, metrics)
            stage.record(step, metrics)
        return node, metrics, seconds

    def _check(self, stage, step, node, metrics):
        infinite = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        self._skipped = self._skipped + 1 if infinite else 0
        for name, value in infinite.items():
            # With fp16 the gradient scaler leaves such an update out, and scales less, down to 1 if it must.
            scaled = name.startswith("grad_norm") and self.parallel.precision == "fp16"
            if not scaled or self._skipped > MOST_SKIPPED:
                raise RunError(
                    f"{name} is {value} at {stage.name} step {step}, node {node}: start again in another --output_dir"
                    f"{stage.remedy}, with lower learning rates, or with bf16 instead of fp16."
                )

    # -----------------------------------------------------------------------------------------------------------------
    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # of a notebook or a server
            yield
            return
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once
        self._signalled = True
        if self.parallel.is_main:
            when = b"this update" if self.parallel.world == 1 else b"the next update that is logged"
            text = b"\nSaving a checkpoint after " + when + b". Press Ctrl-C again to stop at once, without one.\n"
            os.write(2, text)  # safe in here

    # -----------------------------------------------------------------------------------------------------------------
    # Log, samples, checkpoints

    def _report(self, stage, node, metrics, seconds, probes, bar):
        measured = {name: value for probe in probes for name, value in probe().items()}
        if self.best and self.best.metric in measured and self.parallel.is_main:
            self.best.offer(stage.step, measured[self.best.metric], stage.student)
        metrics = {**metrics, **measured}
        alarms = self._watch(stage.step, metrics) if self.parallel.is_main else []
        for line in alarms:
            logger.warning(line)
        shown = {name: f"{value:.3g}" for name, value in metrics.items() if not name.startswith(NOT_SHOWN)}
        bar.set_postfix({"node": node, **shown}, refresh=False)
        record = {
            "stage": stage.name,
            "node": node,
            "step": stage.step,
            **{name: value if math.isfinite(value) else None for name, value in metrics.items()},
            "seconds_per_step": round(seconds, 4),
            **({"alarms": self._monitor.alarms} if MEASURED in metrics else {}),
        }
        if self.parallel.is_main:
            self.folder.log(record)
        values = {f"{stage.name}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        if MEASURED in metrics:
            values[f"{stage.name}/alarms"] = len(self._monitor.alarms)
        self.accelerator.log({**values, f"{stage.name}/node": node}, step=stage.first_step + stage.step)

    def _watch(self, step, metrics):
        """Lines of new alarms."""
        finite = {name: value for name, value in metrics.items() if name in BANDS and value is not None}
        self._monitor.add({name: value for name, value in finite.items() if math.isfinite(value)})
        return self._monitor.measure(step) if MEASURED in metrics else []

    def validate(self, stage: Stage) -> None:
        """Write the sample images of the student, and show them to the trackers."""
        sheet = self.validator.write_sheet(stage.step) if self.validator else None
        for tracker in self.accelerator.trackers if sheet else ():
            if tracker.name in ("tensorboard", "wandb"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": np.asarray(sheet)[None]}, stage.first_step + stage.step, **layout)

    def save(self, stage: Stage) -> Path | None:
        """Write a checkpoint; no process goes on, or ends, before it is there. Returns its folder to the main one."""
        saved = None
        if self.parallel.is_main:
            saved = self.folder.save(stage.name, stage.step, stage.save, self.settings.checkpoints_total_limit)
        self.parallel.wait()
        return saved


def due(step: int, every: int) -> bool:
    """Whether something that is done every N steps, or with 0 never, is done at this one."""
    return every > 0 and step % every == 0
