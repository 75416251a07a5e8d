# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Image-to-image and inpainting with a student. `AutoPipelineFor...from_pipe` of diffusers returns these pipelines."""

import inspect
import os
from numbers import Real

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
from diffusers.utils import BaseOutput
from PIL.Image import Image

from disback_diffusers.errors import UsageError

from .adapters import StudentLoraMixin
from .call_arguments import chosen_steps, chosen_timesteps, without_effect
from .call_checks import checked, finite_images
from .pipeline_disback import DisBackPipeline
from .pipeline_disback_xl import DisBackXLPipeline
from .schedulers import one_step_timestep


class OneStepImagePipeline(StudentLoraMixin):
    """One step from an image with the noise of the conditioning timestep.

    The student was trained for this noise level only, so `strength` is always 1, which adds exactly that noise. A
    student that has learned guidance alone (`--objective guidance`) takes any strength and number of steps.
    """

    def __call__(self, *args, **kwargs) -> BaseOutput | tuple:
        """Arguments as in the stock pipeline. `strength`, `num_inference_steps` and `guidance_scale` can be left out.

        Raises:
            UsageError: a strength below 1, several steps, guidance or a negative prompt, or a value that is not valid.
            NotFiniteError: as in `DisBackPipeline`.
        """
        self._warn_if_student_is_off()
        stock = super().__call__
        given = inspect.signature(stock).bind(*args, **kwargs).arguments
        if unknown := given.pop("kwargs", {}):
            raise UsageError(f"{min(unknown)}: {type(self).__name__} has no such argument.")
        if given.get("image") is None:
            raise UsageError("image is missing: the picture to start from.")
        given = {"prompt": None, "output_type": "pil", "image": _rgb(given.pop("image")), **given}
        if own := self.config.get("_inference_steps"):
            return self._in_many_steps(stock, given, own)
        if given.pop("strength", None) not in (1, None):
            raise UsageError("strength: the student starts from one noise level, which is strength=1.0; leave it out.")
        arguments = checked(self, without_effect(given))
        choices = {1: [one_step_timestep(self.scheduler) or self.config._conditioning_timestep]}
        steps, timesteps = arguments.pop("num_inference_steps", None), arguments.pop("timesteps", None)
        fixed = {"strength": 1.0, "timesteps": chosen_timesteps(choices, steps, timesteps)}
        return finite_images(self, stock, {**arguments, **fixed})

    def _in_many_steps(self, stock, given, default):
        """Of a student that has learned guidance alone: any strength and number of steps."""
        arguments = checked(self, without_effect(given))
        steps, timesteps = arguments.pop("num_inference_steps", None), arguments.pop("timesteps", None)
        arguments["num_inference_steps"] = steps = chosen_steps(steps, timesteps, default)
        strength = arguments.get("strength", 1)
        if not isinstance(strength, Real) or not 0 < strength <= 1 or int(steps * strength) < 1:
            raise UsageError(f"strength={strength!r} must be at most 1, and at least 1/{steps} for {steps} steps.")
        return finite_images(self, stock, arguments)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As `DisBackPipeline.save_pretrained`."""
        DisBackPipeline.from_pipe(self).save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As `DisBackPipeline.push_to_hub`."""
        return DisBackPipeline.from_pipe(self).push_to_hub(repo_id, **kwargs)


def _rgb(image):
    """Images in RGB: diffusers would take an image of four channels as latents."""
    if isinstance(image, list | tuple):
        return [_rgb(one) for one in image]
    return image.convert("RGB") if isinstance(image, Image) else image


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
