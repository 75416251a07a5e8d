# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One trained role: its parameters, optimizer and learning-rate schedule."""

import torch
from diffusers.optimization import get_scheduler
from torch.nn.utils import clip_grad_norm_

from ..errors import UsageError


def optimizer_class(use_8bit_adam):
    """AdamW, of torch or in 8 bits of bitsandbytes.

    Raises:
        UsageError: bitsandbytes is asked for and not installed.
    """
    if not use_8bit_adam:
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UsageError('--use_8bit_adam needs bitsandbytes: pip install "disback-diffusers[gpu]".') from None
    return AdamW8bit


class Learner:
    """Accumulates gradients, averages them over processes, clips them and takes a step.

    Gradients are reduced here, not by DistributedDataParallel: several roles live on one module and run several times
    an iteration, which its reducer either refuses or silently leaves out of step.

    Args:
        parameters (`list[Parameter]`), learning_rate (`float`).
        args (`DistillationArguments`), accelerator (`Accelerator`).
        schedule_steps (`int`, *optional*): length of the schedule; None keeps the rate constant.
        scheduler (`str`, *optional*): the schedule; by default that of `--lr_scheduler`.
    """

    def __init__(self, parameters, learning_rate, args, accelerator, schedule_steps=None, scheduler=None):
        self.parameters, self.accelerator, self.max_grad_norm = list(parameters), accelerator, args.max_grad_norm
        optimizer = optimizer_class(args.use_8bit_adam)(
            self.parameters,
            lr=learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            weight_decay=args.adam_weight_decay,
            eps=args.adam_epsilon,
        )
        name = (scheduler or args.lr_scheduler) if schedule_steps else "constant"
        warmup = args.lr_warmup_steps if schedule_steps else 0
        self.schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=schedule_steps)
        self.optimizer = optimizer
        # One for each role: a scale that changes between two roles' steps would be wrong for the second.
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=accelerator.mixed_precision == "fp16")

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def step(self):
        """One update with the accumulated gradients. Returns their norm before clipping, a scalar tensor."""
        if self.accelerator.num_processes > 1:
            self._average_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad()
        return norm

    def _average_gradients(self, bucket_elements=2**25):
        """Averages in buckets of up to 128 MB, so that few messages are sent and little memory is taken.

        The gradient of a parameter that no forward of this process used counts as zero; where no process used it,
        there is none.
        """
        bucket, size = [], 0
        for parameter in self.parameters:
            bucket.append(parameter)
            size += parameter.numel()
            if size >= bucket_elements or parameter is self.parameters[-1]:
                grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
                flat = self.accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), "mean")
                for p, part in zip(bucket, flat.split([p.numel() for p in bucket])):
                    if p.grad is not None:
                        p.grad.copy_(part.view_as(p))
                    elif part.any():
                        p.grad = part.view_as(p).clone()
                bucket, size = [], 0

    def state_dict(self):
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
