# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What both stages share: forwards through roles, learners, and saving and loading their state."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import Accelerator

from ..errors import UsageError
from ..files import atomic_write
from ..models.lcm_lora import LcmLora
from ..models.roles import Roles
from ..models.student import Student
from ..models.teachers import StableDiffusionTeacher
from .arguments import DistillationArguments
from .batches import BatchSource
from .learner import Learner


@dataclass
class Context:
    """Everything a stage works with."""

    args: DistillationArguments
    accelerator: Accelerator
    teacher: StableDiffusionTeacher
    roles: Roles
    student: Student
    batches: BatchSource
    lcm_lora: LcmLora | None = None  # what the student started as

    @property
    def is_main(self):
        return self.accelerator.is_main_process


class Stage:
    """A training loop's inside. The trainer calls `start` once (not when resumed), then `train_step` and `after_step`
    for each step, then `finish`; `save` and `load` carry everything a resumed run needs.

    Args:
        context (`Context`).
        total_steps (`int`): updates of this stage.
    """

    name = ""

    def __init__(self, context, total_steps):
        self.context, self.total_steps, self.step = context, total_steps, 0
        self.args, self.roles, self.student, self.batches = (
            context.args,
            context.roles,
            context.student,
            context.batches,
        )
        self.schedule, self.parts = context.teacher.schedule, context.args.gradient_accumulation_steps
        self.learners = {}

    @property
    def node(self):
        """Number of the node that is being worked on, for logs and messages."""
        raise NotImplementedError

    def start(self):
        """Before the first step."""

    def train_step(self, step):
        """One update of everything this stage trains. Returns metrics by name, scalar tensors."""
        raise NotImplementedError

    def after_step(self, step, metrics):
        """With the metrics as numbers, the same on every process, known to be finite."""

    def finish(self):
        """After the last step."""

    # -----------------------------------------------------------------------------------------------------------------

    def make_learner(self, name, parameters, learning_rate, schedule_steps=None, scheduler=None):
        learner = Learner(parameters, learning_rate, self.args, self.context.accelerator, schedule_steps, scheduler)
        self.learners[name] = learner
        return learner

    def autocast(self):
        return self.context.accelerator.autocast()

    def forward(self, role, x_t, t, conditioning):
        """The base with an adapter, or without (`role` None: the teacher), on x_t (n, c, h, w); t is (n,)."""
        unet = self.roles.unet
        with self.roles(*([role] if role else [])), self.autocast():
            return unet(x_t.to(unet.dtype), t, **conditioning.kwargs()).sample

    # -----------------------------------------------------------------------------------------------------------------

    def state(self):
        """Further state of the stage, plain JSON values."""
        return {}

    def load_state(self, state):
        pass

    def save(self, folder):
        """Write a checkpoint; state.json comes last."""
        for name, learner in self.learners.items():
            state = learner.state_dict()
            atomic_write(folder / f"learner_{name}.pt", lambda temporary, state=state: torch.save(state, temporary))
        text = json.dumps({"stage": self.name, "step": self.step, **self._origin, **self.state()})
        atomic_write(folder / "state.json", lambda temporary: temporary.write_text(text))

    def load(self, folder):
        """Read what `save` wrote; raises UsageError for a run of another origin, and anything for a damaged file."""
        state = json.loads((folder / "state.json").read_text())
        self._check_origin(folder, state)
        for name, learner in self.learners.items():
            file = folder / f"learner_{name}.pt"
            learner.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        if type(state["step"]) is not int:
            raise ValueError(f"its step is {state['step']!r}")
        self.step = state["step"]
        self.load_state(state)

    @cached_property
    def _origin(self):
        """What shapes a run beside its settings."""
        prompts = hashlib.sha256(json.dumps(self.batches.bank.prompts).encode()).hexdigest()
        accelerator = self.context.accelerator
        return {"processes": accelerator.num_processes, "precision": accelerator.mixed_precision, "prompts": prompts}

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
