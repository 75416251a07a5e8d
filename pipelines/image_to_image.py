# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Image-to-image and inpainting with a student: what diffusers' `AutoPipelineFor...from_pipe` makes of ours."""

import inspect

from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)

from disback_diffusers.errors import UsageError

from .adapters import StudentLoraMixin
from .pipeline_disback import DisBackPipeline
from .pipeline_disback_xl import DisBackXLPipeline
from .schedulers import one_step_timestep


class OneStepImagePipeline(StudentLoraMixin):
    """One step from an image with noise of the conditioning timestep.

    A student knows this one noise level: `strength` is 1, which adds just that noise, and no other.
    """

    def __call__(self, *args, **kwargs):
        """Arguments as in the stock pipeline. `strength`, `num_inference_steps` and `guidance_scale` may be left out.

        Raises:
            UsageError: a strength below 1, several steps, guidance or a negative prompt.
        """
        self._warn_if_student_is_off()
        stock = super().__call__
        given = inspect.signature(stock).bind(*args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        timesteps = [one_step_timestep(self.scheduler) or self.config._conditioning_timestep]
        for name, fixed in (("strength", 1.0), ("num_inference_steps", 1), ("timesteps", timesteps)):
            if given.get(name, fixed) not in (fixed, None):
                raise UsageError(f"{name}={given[name]!r}: from an image the student has one step, at {name}={fixed}.")
        if (given.get("guidance_scale") or 0) > 1 or given.get("negative_prompt"):
            raise UsageError("guidance_scale, negative_prompt: the student has learned guidance; leave them out.")
        return stock(**{**given, "strength": 1.0, "timesteps": timesteps, "guidance_scale": 0.0})

    def save_pretrained(self, save_directory, **kwargs):
        """As `DisBackPipeline.save_pretrained`."""
        DisBackPipeline.from_pipe(self).save_pretrained(save_directory, **kwargs)


class DisBackImg2ImgPipeline(OneStepImagePipeline, StableDiffusionImg2ImgPipeline):
    """Image to image with a student of a Stable Diffusion teacher."""


class DisBackInpaintPipeline(OneStepImagePipeline, StableDiffusionInpaintPipeline):
    """Inpainting with a student of a Stable Diffusion teacher."""


class DisBackXLImg2ImgPipeline(OneStepImagePipeline, StableDiffusionXLImg2ImgPipeline):
    """Image to image with a student of an SDXL teacher."""


class DisBackXLInpaintPipeline(OneStepImagePipeline, StableDiffusionXLInpaintPipeline):
    """Inpainting with a student of an SDXL teacher."""


for mapping, sd, sdxl in (
    (AUTO_TEXT2IMAGE_PIPELINES_MAPPING, DisBackPipeline, DisBackXLPipeline),
    (AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, DisBackImg2ImgPipeline, DisBackXLImg2ImgPipeline),
    (AUTO_INPAINT_PIPELINES_MAPPING, DisBackInpaintPipeline, DisBackXLInpaintPipeline),
):
    mapping.update({"disback": sd, "disback-xl": sdxl})
