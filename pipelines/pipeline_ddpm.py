# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step generation with a student of a DDPM teacher."""

from diffusers import DDPMPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import logging

from disback_diffusers.errors import UsageError

from .pixels import PixelPipeline
from .schedulers import one_step_scheduler, one_step_timestep, starting_timestep


logger = logging.get_logger(__name__)


class DisBackDDPMPipeline(PixelPipeline, DDPMPipeline):
    """Images in one evaluation, with a student of a DDPM teacher.

    It is a `DDPMPipeline` whose scheduler is an `LCMScheduler` made for the student. Plain diffusers generates the
    same images with `num_inference_steps=1`.

    Args:
        unet (`UNet2DModel`).
        scheduler (`SchedulerMixin`): any scheduler of the base model, or of a saved student.
        conditioning_timestep (`int`, *optional*): as in `DisBackPipeline`.
    """

    stock_class = DDPMPipeline
    student_options = ("conditioning_timestep",)
    base_classes = ("DDIMPipeline",)

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, conditioning_timestep: int | None = None):
        super().__init__(unet, scheduler)
        self._check_unet()
        timestep = starting_timestep(scheduler, conditioning_timestep)
        self.register_modules(scheduler=one_step_scheduler(scheduler, timestep))
        self.register_to_config(conditioning_timestep=timestep)

    @property
    def conditioning_timestep(self) -> int:
        """The timestep at which the student was trained to turn pure noise into an image."""
        return self.config.conditioning_timestep

    def _check_parts(self):
        if self.unet is None or one_step_timestep(self.scheduler) != self.conditioning_timestep:
            raise UsageError("pipe.unet and pipe.scheduler belong to the student: keep those it was loaded with.")

    def _stock(self):
        if self.class_labels:
            logger.warning("A DDPMPipeline of plain diffusers takes no class labels: load it with DisBackPipeline.")
        return super()._stock()

    def _times(self, steps):
        return {"timesteps": [self.conditioning_timestep]}
