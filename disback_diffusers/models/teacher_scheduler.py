# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The scheduler with which the teacher is sampled."""

import diffusers
import torch
from diffusers import DDIMScheduler, SchedulerMixin

from ..diffusion.noise import NoiseSchedule
from ..errors import UsageError, one_line


# Below this alpha an epsilon prediction is not sampled with: its error grows by 1 / alpha, to infinity at zero
# terminal SNR. Stable Diffusion ends at 0.068, DDPM's linear betas at 0.006.
SMALLEST_ALPHA = 0.005


def check_scheduler(config: dict, name: str) -> None:
    """Raise a UsageError where a scheduler of diffusers cannot take the place of the one with this config.

    Args:
        config (`dict`): of the teacher's scheduler.
        name (`str`): of a class, such as "DPMSolverMultistepScheduler".
    """
    compatible = {cls.__name__: cls for cls in _class(config).from_config(config).compatibles}
    if name not in compatible or not _fits(compatible[name], config):
        known = sorted(name for name, cls in compatible.items() if _fits(cls, config))
        raise UsageError(f"{name} cannot sample this teacher: take one of {', '.join(known)}.")


def _fits(cls, config):
    """Whether a scheduler has the noise schedule of this config, takes its predictions, and has what it needs."""
    try:
        schedule = NoiseSchedule.from_scheduler(cls.from_config(config))
        if schedule.num_train_timesteps != NoiseSchedule.from_scheduler(config).num_train_timesteps:
            return False
        check_steps(config, schedule, 10, cls.__name__)
    except (ImportError, UsageError):
        return False
    return True


def check_steps(config: dict, schedule: NoiseSchedule, steps: int, name: str | None = None) -> None:
    """Raise a UsageError where the teacher cannot be sampled in this number of steps.

    All steps are taken with predictions of zero. Arguments as those of `teacher_scheduler`.
    """
    if steps > schedule.num_train_timesteps:
        raise UsageError(
            f"{steps} is more than the {schedule.num_train_timesteps} timesteps of the teacher's schedule."
        )
    scheduler = teacher_scheduler(config, schedule, steps, name)
    sample = torch.zeros(1, 1, 1, 1)
    try:
        with torch.random.fork_rng(devices=[]):
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                scheduler.scale_model_input(sample, t)
                scheduler.step(torch.zeros_like(sample), t, sample)
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{steps}: {type(scheduler).__name__} fails in this number of steps ({one_line(error)}). Take another "
            "number, or another scheduler."
        ) from None


def teacher_scheduler(config: dict, schedule: NoiseSchedule, steps: int, name: str | None = None) -> SchedulerMixin:
    """The teacher's own scheduler, or another of its noise schedule.

    Args:
        config (`dict`): of the teacher's scheduler.
        schedule (`NoiseSchedule`): the same. With an epsilon prediction sampling starts where alpha is large enough.
        steps (`int`): how many the samples will take.
        name (`str`, *optional*): another class of diffusers.
    """
    cls = getattr(diffusers, name) if name else _class(config)
    if schedule.prediction_type != "epsilon":
        return cls.from_config(config)
    times = torch.arange(schedule.num_train_timesteps)
    alphas = schedule.alpha_sigma(times, torch.zeros(len(times), dtype=torch.float64))[0].flatten()
    count = int((alphas >= SMALLEST_ALPHA).sum())
    if count == len(alphas):
        return cls.from_config(config)
    count = max(count // steps, 1) * steps  # DDIM goes down by whole timesteps
    products = alphas.square()
    betas = 1 - products / torch.cat([products.new_ones(1), products[:-1]])
    cut = {"trained_betas": betas[:count].tolist(), "num_train_timesteps": count, "rescale_betas_zero_snr": False}
    return cls.from_config(config, **cut)


def _class(config: dict) -> type[SchedulerMixin]:
    return getattr(diffusers, config.get("_class_name", ""), DDIMScheduler)
