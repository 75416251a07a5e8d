# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What both stages share: role optimizers, and saving and loading their state."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..errors import UsageError, one_line
from ..files import atomic_write
from ..models.batch import Batch
from .batches import BatchSource
from .networks import Networks
from .optimizers import RoleOptimizer
from .parallel import Replicated
from .run_folder import Checkpoint
from .settings import OptimizationArguments


logger = logging.getLogger(__name__)


class Stage:
    """The inside of a training loop.

    The trainer calls `start` once (not when resumed); then, for each step, `train_step`, at the latest where
    `waits_for` says so `record` for all steps since the last time, and `after_step`; then `finish`. `save` and `load`
    carry everything that a resumed run needs.

    Args:
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        optimization (`OptimizationArguments`).
        total_steps (`int`): updates of this stage.

    Attributes:
        name (`str`): in logs and the names of checkpoints.
        title (`str`): before the progress bar.
        trains_student (`bool`): whether samples are generated and measured on the way.
        first_step (`int`): updates of earlier stages, which trackers count too.
        carries_student (`bool`): whether its checkpoints hold the student.
        remedy (`str`): what to reuse when the run has to be started again.
    """

    name = ""
    trains_student = False
    carries_student = False
    first_step = 0
    remedy = ""

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        optimization: OptimizationArguments,
        total_steps: int,
    ):
        self.networks, self.batches, self.parallel = networks, batches, parallel
        self.optimization, self.total_steps, self.step = optimization, total_steps, 0
        self.student, self.schedule = networks.student, networks.family.schedule
        self.optimizers: dict[str, RoleOptimizer] = {}
        self.title = self.name

    @property
    def node(self) -> int:
        """Number of the node that is being worked on, for logs and messages."""
        raise NotImplementedError

    def start(self) -> None:
        """Before the first step."""

    def train_step(self, step: int) -> dict[str, torch.Tensor]:
        """One update of everything this stage trains. Returns metrics by name, scalars on the device."""
        raise NotImplementedError

    def waits_for(self, step: int) -> bool:
        """Whether the metrics have to be known before `after_step`."""
        return False

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Take in the metrics of a step, the same on every process and finite."""

    def after_step(self, step: int) -> None:
        """After each step."""

    def finish(self) -> None:
        """After the last step."""

    # -----------------------------------------------------------------------------------------------------------------

    def add_optimizer(self, role: str, parameters: list, learning_rate: float, **schedule) -> RoleOptimizer:
        """An optimizer whose state is saved under the name of the role; `schedule` as in `RoleOptimizer`."""
        optimizer = RoleOptimizer(parameters, learning_rate, self.optimization, self.parallel, **schedule)
        self.optimizers[role] = optimizer
        return optimizer

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of an update."""
        for index in range(self.batches.micro_batches):
            yield self.batches.make(self.name, step, index)

    # -----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict:
        """Further state of the stage, plain JSON values."""
        return {}

    def load_state(self, state: dict) -> None:
        """Take over what `state` returned."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint; state.json comes last."""
        for role, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            atomic_write(folder / f"optimizer_{role}.pt", lambda temporary, state=state: torch.save(state, temporary))
        if self.carries_student:
            self._save_student(folder)
        of_student = {"ema_step": self.student.ema.optimization_step} if self.carries_student else {}
        text = json.dumps({"stage": self.name, "step": self.step, **self._origin, **of_student, **self.state()})
        atomic_write(folder / "state.json", lambda temporary: temporary.write_text(text))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UsageError: a run of another origin. Any other exception: a damaged file.
        """
        state = json.loads((folder / "state.json").read_text())
        self._check_origin(folder, state)
        for role, optimizer in self.optimizers.items():
            file, older = folder / f"optimizer_{role}.pt", folder / f"learner_{role}.pt"  # as version 0.1 named it
            if older.is_file():
                file = older
            optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        if type(state["step"]) is not int:
            raise ValueError(f"its step is {state['step']!r}")
        self.step = state["step"]
        if self.carries_student:
            self._load_student(folder, state["ema_step"])
        self.load_state(state)

    def _save_student(self, folder):
        ema = {str(i): value for i, value in enumerate(self.student.ema.shadow_params)}
        for name, tensors in (("student", self.student.denoiser.state_dict()), ("ema", ema)):
            save_tensors(folder / f"{name}.safetensors", tensors)

    def _load_student(self, folder, ema_step):
        file = folder / "student.safetensors"
        self.student.denoiser.load_state_dict(load_file(file), source=str(file))
        shadow = load_file(folder / "ema.safetensors")
        for i, value in enumerate(self.student.ema.shadow_params):
            value.copy_(shadow[str(i)])
        self.student.ema.optimization_step = ema_step
        if type(ema_step) is not int:
            raise ValueError(f"its ema_step is {ema_step!r}")

    @cached_property
    def _origin(self):
        """What shapes a run beside its settings."""
        prompts = hashlib.sha256(json.dumps(self.batches.bank.prompts).encode()).hexdigest()
        return {"processes": self.parallel.world, "precision": self.parallel.precision, "prompts": prompts}

    def _check_origin(self, folder, state):
        before, now = {name: state[name] for name in self._origin}, self._origin
        if before["processes"] != now["processes"]:
            raise UsageError(
                f"{folder} was saved by {before['processes']} processes, these are {now['processes']}: a resumed run "
                "would see other data. Start as many."
            )
        if before["precision"] != now["precision"]:
            raise UsageError(
                f"{folder} was trained with mixed precision {before['precision']}, accelerate is set to "
                f"{now['precision']}: `accelerate launch --mixed_precision {before['precision']}` goes on."
            )
        if before["prompts"] != now["prompts"]:
            raise UsageError(f"{folder} was trained on other prompts than --prompt_dataset has now: restore that.")


def save_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    atomic_write(file, lambda temporary: save_file(tensors, temporary))


def resume(stage: Stage, checkpoint: Checkpoint) -> None:
    """Let a stage go on from a checkpoint.

    Raises:
        UsageError: the checkpoint is damaged or of other data.
    """
    try:
        stage.load(checkpoint.folder)
    except UsageError:
        raise
    except Exception as error:  # whatever torch, safetensors and json say to a damaged file
        reason = one_line(error)
        raise UsageError(
            f"{checkpoint.folder} is damaged ({reason}): delete it to go on from the one before."
        ) from None
    logger.info(f"Resumed from {checkpoint.folder}.")
