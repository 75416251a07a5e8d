# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step generation with a student of an EDM teacher, or of one of the consistency models' teachers."""

from numbers import Real

import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import logging

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.errors import UsageError
from disback_diffusers.models.edm_unet import EDMUNet2DModel
from disback_diffusers.models.families.edm import CONSISTENCY_TIMES, EDM_TIMES

from .pixels import PixelPipeline


logger = logging.get_logger(__name__)

ADAPTED_TO = "_disback_sigma"  # attribute of a network whose times were changed
ONLY_STEP = 2  # steps of a one-level scheduler: the second one, at noise level 0, leaves the image unchanged


class DisBackEDMPipeline(PixelPipeline, ConsistencyModelPipeline):
    """Images in one evaluation, with a student of an EDM teacher.

    It is a `ConsistencyModelPipeline` whose scheduler starts at the student's noise level, so that plain diffusers
    generates the same images in one step. `DisBackPipeline.from_pretrained` returns one if the base is EDM's.

    Args:
        unet (`UNet2DModel` or `EDMUNet2DModel`): its time embedding is changed in place where it was trained for
            other times than a `CMStochasticIterativeScheduler` gives.
        scheduler (`SchedulerMixin`): of the base model, or of a saved student.
        conditioning_sigma (`float`, *optional*): the noise level at which the student was trained to start. The
            default is that of a saved student; else it is the highest, with a warning.
    """

    stock_class = ConsistencyModelPipeline
    student_options = ("conditioning_sigma",)

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, conditioning_sigma: float | int | None = None):
        super().__init__(unet, scheduler)
        self._check_unet()
        self._base_times = times_of(scheduler)
        sigma = starting_level(scheduler, conditioning_sigma)
        take_consistency_times(unet, scheduler, sigma)
        self._adapted_to = getattr(unet, ADAPTED_TO, None)
        self.register_modules(scheduler=one_level_scheduler(scheduler, sigma))
        self.register_to_config(conditioning_sigma=sigma)

    @property
    def conditioning_sigma(self) -> float:
        """The noise level at which the student was trained to turn pure noise into an image."""
        return self.config.conditioning_sigma

    def _check_parts(self):
        if _level_of(self.scheduler) != self.conditioning_sigma:
            raise UsageError("pipe.scheduler belongs to the student: keep the one the pipeline was loaded with.")
        if self.unet is None or getattr(self.unet, ADAPTED_TO, None) != self._adapted_to:
            raise UsageError("pipe.unet was replaced by one with other times: load it with from_pretrained(unet=...).")

    def _interface(self):
        times = {"network_times": self._base_times} if self._base_times else {}
        return {**super()._interface(), "sigma_data": self.scheduler.config.sigma_data, **times}

    def _times(self, steps):
        return {"sigmas": [self.conditioning_sigma]}


def starting_level(scheduler: SchedulerMixin, given: float | None) -> float:
    """The noise level to start at: the given one, or that of a scheduler made for a student, or the highest, with a
    warning.

    Raises:
        UsageError: it is no noise level of the scheduler, or not the one that the scheduler was made for.
    """
    made_for = _level_of(scheduler)
    if made_for is not None:
        if given not in (None, made_for):
            raise UsageError(
                f"conditioning_sigma={given}: this pipeline was saved for noise level {made_for:g}. Leave the "
                "argument out, or load the student from the folder it was trained in."
            )
        return made_for
    schedule = NoiseSchedule.from_scheduler(scheduler)
    first, last = schedule.time_range
    if schedule.prediction_type != "edm":
        raise UsageError(f"its scheduler has prediction_type {schedule.prediction_type}: EDM's own is needed.")
    if given is None:
        logger.warning(
            f"Nothing says at which noise level the student was trained to start: taking {last:g}. If it is another "
            "one, images are blurred or noisy: pass conditioning_sigma=..."
        )
        return last
    if not isinstance(given, Real) or isinstance(given, bool) or not first <= given <= last:
        raise UsageError(f"conditioning_sigma={given!r} must be a noise level of the base model, {first} to {last}.")
    return float(given)


def times_of(scheduler: SchedulerMixin) -> str | None:
    """The times that the network of a base model takes; None for the scheduler of a saved student, which hides it."""
    if _level_of(scheduler) is not None:
        return None
    return CONSISTENCY_TIMES if isinstance(scheduler, CMStochasticIterativeScheduler) else EDM_TIMES


def one_level_scheduler(scheduler: SchedulerMixin, sigma: float) -> CMStochasticIterativeScheduler:
    """A scheduler whose first step goes from noise level `sigma` straight to x0, by EDM's preconditioning (its
    `sigma_min` of 0 takes the boundary condition of the consistency models out of it).
    """
    sigma_data = scheduler.config["sigma_data"]
    return CMStochasticIterativeScheduler(
        ONLY_STEP, sigma_min=0.0, sigma_max=sigma, sigma_data=sigma_data, clip_denoised=False
    )


def _level_of(scheduler):
    """The noise level that `one_level_scheduler` made a scheduler for; else None."""
    is_ours = isinstance(scheduler, CMStochasticIterativeScheduler) and scheduler.config.sigma_min == 0
    return float(scheduler.config.sigma_max) if is_ours else None


@torch.no_grad()
def take_consistency_times(unet: ModelMixin, scheduler: SchedulerMixin, sigma: float) -> None:
    """Make a network of EDM's times, ln(sigma) / 4, one of the consistency models', which are a thousand times that.

    In place, and only right at noise level `sigma` for a `UNet2DModel`: the embedding of this time becomes part of
    the bias.

    Raises:
        UsageError: it was done before, for another noise level.
    """
    if isinstance(scheduler, CMStochasticIterativeScheduler):
        return
    before = getattr(unet, ADAPTED_TO, sigma)
    if before != sigma:
        raise UsageError(f"unet: it was made a student's of noise level {before:g} before; load it anew.")
    if hasattr(unet, ADAPTED_TO):
        return
    setattr(unet, ADAPTED_TO, sigma)
    if isinstance(unet, EDMUNet2DModel):
        unet.register_to_config(time_scale=1e-3)
        return
    layer = unet.time_embedding.linear_1
    t = torch.tensor([sigma], device=layer.weight.device).log() / 4
    embedded = layer.weight.float() @ unet.time_proj(t).float()[0]
    layer.bias.add_(embedded.to(layer.bias.dtype))
    layer.weight.zero_()
