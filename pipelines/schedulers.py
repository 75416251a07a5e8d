# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The schedulers of students: stock `LCMScheduler`s, so that plain diffusers generates the same images."""

import operator

from diffusers import LCMScheduler, SchedulerMixin
from diffusers.utils import logging

from disback_diffusers.errors import UsageError
from disback_diffusers.models.lcm_lora import lcm_scheduler


logger = logging.get_logger(__name__)

DEFAULT_TIMESTEP = 399
SMALLEST_ALPHA = 1e-3  # of alphas_cumprod: in float32, 1 - alpha keeps 4 digits of it. Stable Diffusion ends at 5e-3


def checked_timestep(timestep: int) -> int:
    """The conditioning timestep as an `int`; a UsageError for anything but a whole number, such as "399" or 399.5."""
    try:
        if isinstance(timestep, bool):
            raise TypeError
        return operator.index(timestep)
    except TypeError:
        raise UsageError(f"conditioning_timestep={timestep!r} must be a whole number, such as 399.") from None


def starting_timestep(scheduler: SchedulerMixin, given: int | None) -> int:
    """The conditioning timestep: the given one, or that of a scheduler made for a student, or 399 with a warning.

    Raises:
        UsageError: as in `checked_timestep`.
    """
    made_for = one_step_timestep(scheduler)
    if given is None and made_for is None:
        logger.warning(
            f"Nothing says at which timestep the student was trained to start: taking {DEFAULT_TIMESTEP}. If it is "
            "another one, images are blurred or noisy: pass conditioning_timestep=..."
        )
        return DEFAULT_TIMESTEP
    return made_for if given is None else checked_timestep(given)


def one_step_scheduler(scheduler: SchedulerMixin, timestep: int) -> LCMScheduler:
    """An `LCMScheduler` whose first step goes from `timestep` straight to x0 (Eq. 20).

    Plain diffusers takes 50 steps by default. So all noise is in the last beta: the first step starts at `timestep`.
    Further steps are at timesteps without noise, where they leave the image unchanged.

    In two cases the scheduler allows only one step. A network that predicts x0 would generate the image again in each
    further step. An epsilon prediction at almost pure noise needs the betas themselves, not their product in float32.

    Args:
        scheduler (`SchedulerMixin`): of a model trained with betas, or an earlier result of this function.
        timestep (`int`): the conditioning timestep.

    Raises:
        UsageError: the timestep is outside of the schedule; it contradicts `scheduler`, which was made for another; or
            it is pure noise, where an epsilon prediction does not determine x0.
    """
    whole, made_for = lcm_scheduler(scheduler.config), one_step_timestep(scheduler)
    if made_for not in (None, timestep):
        raise UsageError(
            f"conditioning_timestep={timestep}: this pipeline was saved for timestep {made_for}. Leave the argument "
            "out, or load the student from the folder it was trained in."
        )
    if not 0 < timestep < len(whole.betas):
        raise UsageError(
            f"conditioning timestep {timestep} is outside of the base model's schedule, 1 to {len(whole.betas) - 1}."
        )
    alpha, kind = whole.alphas_cumprod[timestep].item(), whole.config.prediction_type
    if kind == "epsilon" and alpha == 0:
        raise UsageError(
            f"conditioning timestep {timestep} is pure noise (zero terminal SNR), from which an epsilon-prediction "
            "student cannot start: take an earlier one."
        )
    if kind == "v_prediction" or (kind == "epsilon" and alpha > SMALLEST_ALPHA):
        betas, steps = [0.0] * timestep + [1 - alpha], timestep + 1
    else:
        betas, steps = whole.betas[: timestep + 1].tolist(), 1
    return LCMScheduler.from_config(
        whole.config,
        trained_betas=betas,
        rescale_betas_zero_snr=False,  # the betas are rescaled already
        num_train_timesteps=timestep + 1,
        original_inference_steps=steps,
        timestep_scaling=1e6,  # LCM's boundary condition would mix a little of x_t into each further step
    )


def few_step_scheduler(scheduler: SchedulerMixin, timesteps: list[int]) -> LCMScheduler:
    """An `LCMScheduler` for a student that generates at these timesteps, one after the other.

    Its schedule ends at the first timestep. Where they are spaced evenly, it takes them by itself for as many steps.

    Args:
        scheduler (`SchedulerMixin`): of a model trained with betas, or an earlier result of this function.
        timesteps (`list[int]`): descending.

    Raises:
        UsageError: as in `one_step_scheduler`; or the timesteps are not descending.
    """
    one_step_scheduler(scheduler, timesteps[0])  # checks
    if sorted(set(timesteps), reverse=True) != list(timesteps) or timesteps[-1] < 1:
        raise UsageError(f"student_timesteps={timesteps} must be whole numbers above 0, descending.")
    whole = lcm_scheduler(scheduler.config)
    return LCMScheduler.from_config(
        whole.config,
        trained_betas=whole.betas[: timesteps[0] + 1].tolist(),
        rescale_betas_zero_snr=False,  # the betas are rescaled already
        num_train_timesteps=timesteps[0] + 1,
        original_inference_steps=len(timesteps),
        timestep_scaling=1e6,  # without LCM's boundary condition, which the student was trained without
    )


def has_timesteps(scheduler: SchedulerMixin, timesteps: list[int]) -> bool:
    """Whether it takes these timesteps by itself for as many steps."""
    scheduler = LCMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(len(timesteps))
    return scheduler.timesteps.tolist() == list(timesteps)


def one_step_timestep(scheduler: SchedulerMixin) -> int | None:
    """The timestep that `one_step_scheduler` made a scheduler for, in this or an earlier version; else None."""
    config = scheduler.config
    betas = config.get("trained_betas")
    if not isinstance(scheduler, LCMScheduler) or betas is None or len(betas) != config.num_train_timesteps:
        return None
    is_cut = config.original_inference_steps == 1  # as version 0.1 left it
    return len(betas) - 1 if is_cut or not any(betas[:-1]) else None
