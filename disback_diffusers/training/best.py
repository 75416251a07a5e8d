# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The best student of a run, by a metric that falls."""

import json
import math
from pathlib import Path

from safetensors.torch import load_file

from ..errors import UsageError, one_line
from ..files import BEST_FOLDER, atomic_write
from ..models.student import Student
from .stage import save_tensors


class BestStudent:
    """Keeps the averaged weights of the student that had the lowest value of a metric.

    Args:
        folder (`Path`): of the run.
        metric (`str`): its name in the log.

    Attributes:
        step (`int` or `None`), value (`float`): of the student that is kept.
    """

    def __init__(self, folder: Path, metric: str):
        self.folder, self.metric = Path(folder) / BEST_FOLDER, metric
        self.step, self.value = None, math.inf
        self._read()

    def offer(self, step: int, value: float, student: Student) -> None:
        """Keep the student, if its value is the lowest so far. For the main process alone.

        Raises:
            RunError: a file cannot be written.
        """
        if not value < self.value:  # nor where it is not a number
            return
        self.step, self.value = step, value
        weights = {str(i): value for i, value in enumerate(student.ema.shadow_params)}
        save_tensors(self.folder / f"{step}.safetensors", weights)
        text = json.dumps({"metric": self.metric, "step": step, "value": value})
        atomic_write(self._note, lambda temporary: temporary.write_text(text))
        for file in self.folder.glob("*.safetensors"):
            if file.name != f"{step}.safetensors":
                file.unlink()

    def restore(self, student: Student) -> bool:
        """Put the weights that are kept into the student's average. Returns whether there are any.

        Raises:
            UsageError: the file is damaged.
        """
        self._read()  # what the main process has written
        if self.step is None:
            return False
        file = self.folder / f"{self.step}.safetensors"
        try:
            weights = load_file(file)
            for i, value in enumerate(student.ema.shadow_params):
                value.copy_(weights[str(i)])
        except Exception as error:  # of safetensors or torch
            raise UsageError(f"{file} is damaged ({one_line(error)}): delete {self.folder} to do without.") from None
        return True

    @property
    def _note(self):
        return self.folder / "best.json"

    def _read(self):
        if not self._note.is_file():
            return
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["metric"] == self.metric:
                self.step, self.value = int(note["step"]), float(note["value"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self._note} is damaged ({one_line(error)}): delete {self.folder}.") from None
