# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A stage before the others: the student learns the teacher's samples by regression (Yin et al., 2024b, DMD2)."""

import torch

from .batches import BatchSource
from .networks import Networks
from .objectives.regression import regression_loss
from .parallel import Replicated
from .settings import OptimizationArguments
from .stage import Stage


class RegressionWarmup(Stage):
    """Trains the student on pairs; at the end it has its averaged weights.

    Args:
        networks, batches, parallel, optimization, total_steps: as in `Stage`.
    """

    name = "warmup"
    node = 0
    carries_student = True

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        optimization: OptimizationArguments,
        total_steps: int,
    ):
        super().__init__(networks, batches, parallel, optimization, total_steps)
        rate, kind = optimization.learning_rate, optimization.optimizer
        self.optimizer = self.add_optimizer("student", self.student.parameters(), rate, kind=kind)

    def train_step(self, step: int) -> dict[str, torch.Tensor]:
        """As in `Stage`."""
        total, count = 0.0, self.batches.micro_batches
        for batch in self.micro_batches(step):
            loss = regression_loss(self.student, batch) / count
            self.optimizer.backward(loss)
            total = total + loss.detach()
        norm = self.optimizer.step()
        self.student.update_ema()
        return {"loss_regression": total, "grad_norm_student": norm}

    def finish(self) -> None:
        """As in `Stage`."""
        self.student.ema.copy_to(self.student.parameters())
