# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Metrics that stay on the device until they are read, several steps at a time."""

import time

import torch

from .parallel import Replicated


class PendingMetrics:
    """Collects the metrics of steps. Reading them is the only time at which the host waits for the GPU.

    Args:
        parallel (`Replicated`).
    """

    def __init__(self, parallel: Replicated):
        self.parallel, self._steps, self._since = parallel, [], time.perf_counter()

    def restart_clock(self) -> None:
        """Count the seconds of the next steps from now on."""
        self._since = time.perf_counter()

    def add(self, step: int, node: int, metrics: dict[str, torch.Tensor]) -> None:
        """Keep the metrics of a step, scalars of the same names at each step."""
        self._steps.append((step, node, metrics))

    def read(self, stop: bool) -> tuple[list[tuple[int, int, dict[str, float]]], float, bool]:
        """Everything since the last time.

        Args:
            stop (`bool`): whether this process was asked to stop.

        Returns:
            step, node and metrics of each step, averaged over the processes so that all of them decide alike; seconds
            a step; and whether any process was asked to stop.
        """
        values = [value.float() for _, _, metrics in self._steps for value in metrics.values()]
        flag = torch.tensor(float(stop)).to(self.parallel.device)
        *numbers, flag = self.parallel.mean(torch.stack([*values, flag])).tolist()
        numbers, steps = iter(numbers), self._steps
        seconds = (time.perf_counter() - self._since) / len(steps)
        self._steps = []
        return (
            [(step, node, {name: next(numbers) for name in metrics}) for step, node, metrics in steps],
            seconds,
            (flag > 0),
        )
