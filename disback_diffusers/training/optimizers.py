# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What trains one role: its optimizer, learning-rate schedule and gradient scaler."""

from collections.abc import Iterable

import torch
from diffusers.optimization import get_scheduler
from torch.nn.utils import clip_grad_norm_

from ..errors import UsageError
from .parallel import Replicated
from .settings import OptimizationArguments


KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def optimizer_class(use_8bit_adam: bool, kind: str = "adamw") -> type[torch.optim.Optimizer]:
    """An optimizer of torch, or AdamW in 8 bits of bitsandbytes.

    Raises:
        UsageError: bitsandbytes is asked for and not installed.
    """
    if not use_8bit_adam:
        return KINDS[kind]
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UsageError('--use_8bit_adam needs bitsandbytes: pip install "disback-diffusers[gpu]".') from None
    return AdamW8bit


class RoleOptimizer:
    """Accumulates the gradients of one role, averages them over the processes, clips them and takes a step.

    A gradient that is not finite never reaches the weights: the role's gradients then count as zero.

    Args:
        parameters (`list[Parameter]`), learning_rate (`float`).
        settings (`OptimizationArguments`).
        parallel (`Replicated`).
        schedule_steps (`int`, *optional*): length of the schedule; None keeps the rate constant.
        scheduler (`str`, *optional*): the schedule; by default `settings.lr_scheduler`.
        kind (`str`, *optional*): "adamw", "adam" or "sgd"; by default `settings.fake_optimizer`.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        learning_rate: float,
        settings: OptimizationArguments,
        parallel: Replicated,
        schedule_steps: int | None = None,
        scheduler: str | None = None,
        kind: str | None = None,
    ):
        self.parameters, self.parallel, self.max_grad_norm = list(parameters), parallel, settings.max_grad_norm
        on_gpu = parallel.device.type == "cuda" and not settings.use_8bit_adam
        kind = kind or settings.fake_optimizer
        moments = {"betas": (settings.adam_beta1, settings.adam_beta2), "eps": settings.adam_epsilon}
        self.optimizer = optimizer_class(settings.use_8bit_adam, kind)(
            self.parameters,
            lr=learning_rate,
            weight_decay=settings.adam_weight_decay,
            **({} if kind == "sgd" else moments),
            **({"fused": True} if on_gpu else {}),  # with fp16 it skips a step without asking the GPU
        )
        name = (scheduler or settings.lr_scheduler) if schedule_steps else "constant"
        warmup = settings.lr_warmup_steps if schedule_steps else 0
        self.schedule = get_scheduler(name, self.optimizer, num_warmup_steps=warmup, num_training_steps=schedule_steps)
        # One for each role: a scale that changes between two roles' steps would be wrong for the second.
        self.scaler = torch.amp.GradScaler(parallel.device.type, enabled=parallel.precision == "fp16")

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to this role's parameters, and to no others that it depends on."""
        self.scaler.scale(loss).backward(inputs=self.parameters)

    def step(self) -> torch.Tensor:
        """One update with the accumulated gradients. Returns their norm before clipping, a scalar."""
        self.parallel.average_gradients(self.parameters)
        if all(parameter.grad is None for parameter in self.parameters):  # no loss; the scaler would refuse
            self.optimizer.step()
            self.schedule.step()
            return torch.zeros((), device=self.parallel.device)
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.parameters, self.max_grad_norm)
        infinite = ~norm.isfinite()
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(infinite, 0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict:
        """Everything that a resumed run needs."""
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict) -> None:
        """Overwrite with what `state_dict` returned."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self):
        return {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
