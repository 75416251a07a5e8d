# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stage 2, distribution backtracking (Alg. 2): the student follows the path back, node by node, to the teacher."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..errors import UsageError
from .batches import BatchSource
from .networks import Networks
from .objectives import DistributionMatching, Objective
from .parallel import Replicated
from .path import DegradationPath
from .settings import OptimizationArguments
from .stage import Stage, save_tensors
from .switching import NodeWalk, described


class DistributionBacktracking(Stage):
    """Trains the student and the fake score by an objective, against one target after the other.

    Args:
        networks, batches, parallel, optimization: as in `Stage`.
        objective (`Objective`).
        walk (`NodeWalk`): the targets, in their order.
        path (`DegradationPath`, *optional*): where targets other than the teacher come from.
        fake_score_updates (`int`, *optional*, defaults to 1): of the fake score for one of the student.
        first_step (`int`, *optional*): updates of earlier stages.
        fake_score_warmup (`int`, *optional*): updates at the start in which the fake score alone is trained.
    """

    name = "backtracking"
    trains_student = True
    carries_student = True

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        optimization: OptimizationArguments,
        objective: Objective,
        walk: NodeWalk,
        path: DegradationPath | None = None,
        fake_score_updates: int = 1,
        first_step: int = 0,
        fake_score_warmup: int = 0,
    ):
        super().__init__(networks, batches, parallel, optimization, optimization.max_train_steps)
        self.objective, self.walk, self.path, self.fake_score_updates = objective, walk, path, fake_score_updates
        self.first_step, self.fake_score_warmup = first_step, fake_score_warmup
        self.remedy = f", with --degradation_path {path.folder}" if path else ""
        self._add_optimizers()
        if not objective.settings.trains_fake_score:
            self.title = objective.settings.objective

    def _add_optimizers(self):
        settings, steps = self.optimization, self.total_steps
        self.add_optimizer(
            "student",
            self.student.parameters(),
            settings.learning_rate,
            schedule_steps=steps - self.fake_score_warmup,
            kind=settings.optimizer,
        )
        if not self.objective.settings.trains_fake_score:
            return
        of_objective = [p for module in self.objective.modules.values() for p in module.parameters()]
        self.add_optimizer(
            "fake",
            [*self.networks.fake.parameters(), *of_objective],
            settings.fake_score_learning_rate,
            schedule_steps=steps * self.fake_score_updates,
            scheduler=settings.fake_score_lr_scheduler,
        )

    @property
    def node(self) -> int:
        """Number of the target; 0 is the teacher."""
        return self.walk.node

    def start(self) -> None:
        """As in `Stage`."""
        self._set_target()

    def _set_target(self):
        if self.walk.at_teacher:
            self.objective.target = self.networks.teacher
        else:
            self.path.load_into(self.networks.roles, self.node, role=self.networks.target.role)
            self.objective.target = self.networks.target

    # -----------------------------------------------------------------------------------------------------------------

    def train_step(self, step: int) -> dict[str, torch.Tensor]:
        """As in `Stage`."""
        if step <= self.fake_score_warmup:
            return self._warmup_step(step)
        batches, shares = [], []
        for batch in self.micro_batches(step):
            shares.append(self._backward(self.objective.losses(batch), self.optimizers))
            batches.append(batch)
        metrics = total(shares)
        for role, optimizer in self.optimizers.items():
            metrics[f"grad_norm_{role}"] = optimizer.step()
        for repeat in range(1, self.fake_score_updates):
            losses = (self.objective.fake_score_losses(batch, repeat) for batch in batches)
            more = total(self._backward(of_batch, ["fake"]) for of_batch in losses)
            norm = self.optimizers["fake"].step()
            for name, value in more.items():  # mean of the updates
                before = metrics.get(name, value)
                metrics[name] = before + (value - before) / (repeat + 1)
            metrics["grad_norm_fake"] = torch.maximum(metrics["grad_norm_fake"], norm)
        self.student.update_ema()
        return metrics

    def _warmup_step(self, step):
        """One update of the fake score, on samples of the student as it is."""
        shares = []
        for batch in self.micro_batches(step):
            with torch.no_grad():
                batch.samples = self.student.training_samples(batch)
            shares.append(self._backward(self.objective.fake_score_losses(batch, 0), ["fake"]))
        return {**total(shares), "grad_norm_fake": self.optimizers["fake"].step()}

    def _backward(self, losses, roles):
        """Gradients of one micro-batch. Returns its share of the metrics.

        Raises:
            ValueError: the objective does not give what `Objective.losses` describes.
        """
        count, name = self.batches.micro_batches, type(self.objective).__name__
        metrics = None
        for item in losses:
            if metrics is not None:
                raise ValueError(f"{name} yields more after its metrics, which must be the last item.")
            if isinstance(item, dict):
                metrics = {key: torch.as_tensor(value, device=self.parallel.device) for key, value in item.items()}
                continue
            role, loss = item
            if role not in roles:
                raise ValueError(f"{name} yields a loss for '{role}', expected is one for {' and '.join(roles)}.")
            if loss.numel() != 1:
                raise ValueError(
                    f"{name} yields a loss of shape {tuple(loss.shape)} for '{role}': it must be a scalar."
                )
            self.optimizers[role].backward(loss / count)
        if metrics is None:
            raise ValueError(f"{name} yields no metrics: the last item must be a dict.")
        if wrong := [key for key, value in metrics.items() if value.numel() != 1]:
            raise ValueError(f"{name} yields a metric {wrong[0]} that is no scalar.")
        return {key: value / count for key, value in metrics.items()}

    def after_step(self, step: int) -> None:
        """As in `Stage`."""
        if step > self.fake_score_warmup and self.walk.advance():
            self._set_target()

    # -----------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """As in `Stage`."""
        if "fake" in self.optimizers:
            self.networks.roles.save(self.networks.fake.role, folder / "fake.safetensors")
        for name, module in self.objective.modules.items():
            save_tensors(folder / f"{name}.safetensors", module.state_dict())
        super().save(folder)

    def load(self, folder: Path) -> None:
        """As in `Stage`."""
        if "fake" in self.optimizers:
            self.networks.roles.load(self.networks.fake.role, folder / "fake.safetensors")
        for name, module in self.objective.modules.items():
            module.load_state_dict(load_file(folder / f"{name}.safetensors"))
        super().load(folder)
        self._set_target()

    @cached_property
    def _origin(self):
        path = [node.sha256 for node in self.path.nodes] if self.path else None
        return {**super()._origin, "path": path, "objective": type(self.objective).__name__}

    def _check_origin(self, folder, state):
        state.setdefault("objective", DistributionMatching.__name__)  # older checkpoints know no other
        if state["objective"] != self._origin["objective"]:
            raise UsageError(
                f"{folder} was trained with the objective {state['objective']}, this run has "
                f"{self._origin['objective']}: give the same one, or choose another --output_dir."
            )
        super()._check_origin(folder, state)
        if self.path and state["path"] != self._origin["path"]:
            raise UsageError(f"{folder} was trained along another path: {self.path.folder} was recorded anew since.")

    def state(self) -> dict:
        """As in `Stage`."""
        return {
            "node": self.node,
            "switch": {"node_step": self.walk.node_step, "steps_per_node": self.walk.steps_per_node},
        }

    def load_state(self, state: dict) -> None:
        """As in `Stage`."""
        self.walk.position = self.walk.numbers.index(state["node"])
        self.walk.node_step = state["switch"]["node_step"]
        self.walk.steps_per_node = state["switch"].get("steps_per_node", self.walk.steps_per_node)
        on_the_path = sum(self.walk.updates)
        if on_the_path and on_the_path >= self.total_steps:
            raise UsageError(
                f"--max_train_steps {self.total_steps} leaves no step for the true teacher: this run began with "
                f"{described(self.walk.updates)} updates at nodes of the path. Take more steps."
            )


def total(shares: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The sums of metrics by name."""
    sums = {}
    for metrics in shares:
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
