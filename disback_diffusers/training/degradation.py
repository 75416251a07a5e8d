# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stage 1, degradation recording (Alg. 1): the teacher learns the untrained student's samples; nodes are saved."""

from pathlib import Path

import torch

from ..diffusion.losses import denoising_loss
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated
from .path import DegradationPath, node_steps
from .path_probe import PathProbe
from .settings import OptimizationArguments, PathArguments
from .stage import Stage


class DegradationRecording(Stage):
    """Trains the role "target" by Eq. 7 with the student frozen, and saves it as a node at each of `node_steps`.

    Each node keeps its error on fixed samples of the untrained student and of the teacher.

    Args:
        networks, batches, parallel, optimization: as in `Stage`.
        settings (`PathArguments`): length and learning rate.
        path (`DegradationPath`): where the nodes are added.
        nodes (`int`): how many.
    """

    name = "degradation"

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        optimization: OptimizationArguments,
        settings: PathArguments,
        path: DegradationPath,
        nodes: int,
    ):
        super().__init__(networks, batches, parallel, optimization, settings.degradation_steps)
        self.path, self.target = path, networks.target
        self.node_steps = node_steps(settings.degradation_steps, nodes, settings.node_spacing)
        self.optimizer = self.add_optimizer("target", self.target.parameters(), settings.degradation_learning_rate)
        self.probe = PathProbe(networks, batches, parallel)
        self.losses = []  # since the last node

    @property
    def node(self) -> int:
        """Number of the node that comes next."""
        return next((i for i, step in enumerate(self.node_steps, 1) if step > self.step), len(self.node_steps))

    def start(self) -> None:
        """As in `Stage`."""
        measured = self.probe(self.networks.teacher)
        if self.parallel.is_main:
            self.path.start(**measured)

    def train_step(self, step: int) -> dict[str, torch.Tensor]:
        """As in `Stage`."""
        total, count = 0.0, self.batches.micro_batches
        for batch in self.micro_batches(step):
            with torch.no_grad():
                x0 = self.student.training_samples(batch)
            x_t = self.schedule.add_noise(x0, batch.noise, batch.t)
            output = self.target.output(x_t, batch.t, batch.score_conditions)
            loss = denoising_loss(output, x0, batch.noise, batch.t, self.schedule) / count
            self.optimizer.backward(loss)
            total = total + loss.detach()
        return {"loss_target": total, "grad_norm_target": self.optimizer.step()}

    def waits_for(self, step: int) -> bool:
        """As in `Stage`: a node keeps the mean loss since the one before."""
        return step in self.node_steps

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """As in `Stage`."""
        self.losses.append(metrics["loss_target"])

    def after_step(self, step: int) -> None:
        """As in `Stage`."""
        if step not in self.node_steps:
            return
        measured = self.probe(self.target)
        if self.parallel.is_main:
            mean = sum(self.losses) / len(self.losses)
            self.path.add(self.networks.roles, step, role=self.target.role, loss=mean, **measured)
        self.losses = []

    def finish(self) -> None:
        """As in `Stage`."""
        if self.parallel.is_main:
            self.path.complete = True
            self.path.write_manifest()
            self.path.plot()

    # -----------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """As in `Stage`."""
        self.networks.roles.save(self.target.role, folder / "target.safetensors")
        super().save(folder)

    def load(self, folder: Path) -> None:
        """As in `Stage`."""
        self.networks.roles.load(self.target.role, folder / "target.safetensors")
        super().load(folder)
        self.path.nodes = [node for node in self.path.nodes if node.step <= self.step]

    def state(self) -> dict:
        """As in `Stage`."""
        return {"losses": self.losses}

    def load_state(self, state: dict) -> None:
        """As in `Stage`."""
        self.losses = state["losses"]
