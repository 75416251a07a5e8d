# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step text-to-image with a student of a Stable Diffusion teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput, StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from .text_to_image import TextToImagePipeline


class DisBackPipeline(TextToImagePipeline, StableDiffusionPipeline):
    """Text to image in one UNet evaluation, with a student of a Stable Diffusion teacher.

    It is a `StableDiffusionPipeline` whose scheduler is an `LCMScheduler` made for the student.

    Args:
        vae, text_encoder, tokenizer, unet, safety_checker, feature_extractor, image_encoder, requires_safety_checker:
            as in `StableDiffusionPipeline`.
        scheduler (`SchedulerMixin`): any scheduler of the base model. Its config defines the noise schedule.
        conditioning_timestep (`int`, *optional*): the timestep at which the student was trained to start. The default
            is that of a one-step scheduler; with another scheduler it is 399, with a warning.
        few_step (`bool`, *optional*): whether the student is an LCM-LoRA that was also trained at later timesteps, for
            2, 4 and 8 steps.
        student_timesteps (`list[int]`, *optional*): the timesteps of a student that generates in several steps.
        inference_steps (`int`, *optional*): the default number of steps of a student that has learned guidance alone
            (`--objective guidance`). It keeps `scheduler` as it is.
    """

    stock_class = StableDiffusionPipeline
    stock_options = ("requires_safety_checker",)

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        safety_checker: StableDiffusionSafetyChecker = None,
        feature_extractor: CLIPImageProcessor = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        requires_safety_checker: bool = False,
        conditioning_timestep: int | None = None,
        few_step: bool = False,
        student_timesteps: list[int] | None = None,
        inference_steps: int | None = None,
    ):  # diffusers' `from_pipe` inspects these types
        super().__init__(
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            safety_checker,
            feature_extractor,
            image_encoder,
            requires_safety_checker,
        )
        self._make_student(conditioning_timestep, few_step, student_timesteps, inference_steps)

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        clip_skip: int | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        num_inference_steps: int | None = None,
        timesteps: int | Sequence[int] | None = None,
        sigmas: None = None,
        eta: float | None = 0.0,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_embeds: None = None,
    ) -> StableDiffusionPipelineOutput | tuple:
        """Generate images in as many steps as the student was trained for, by default one.

        Args:
            prompt (`str` or `list[str]`, *optional*): required unless `prompt_embeds` is given.
            height, width (`int`, *optional*): in pixels; by default the size the UNet was trained at.
            num_images_per_prompt (`int`, *optional*, defaults to 1).
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): for the noise; a list has one
                generator per image.
            latents (`torch.Tensor`, *optional*): the noise itself, standard normal, `(n, 4, height / f, width / f)`,
                where f is the VAE's factor.
            prompt_embeds (`torch.Tensor`, *optional*): `(prompts, tokens, channels)`, instead of `prompt`.
            output_type (`str`, *optional*, defaults to "pil"): "pil", "np" `(n, h, w, 3)` or "pt" `(n, 3, h, w)`,
                both in [0, 1], or "latent", the student's x0.
            return_dict (`bool`, *optional*, defaults to `True`): if `False`, return a tuple (images, nsfw flags).
            callback_on_step_end, callback_on_step_end_tensor_inputs, clip_skip, cross_attention_kwargs,
            ip_adapter_image, ip_adapter_image_embeds: as in `StableDiffusionPipeline`.
            num_inference_steps (`int`, *optional*), timesteps (`list[int]`, *optional*): 1 and [the conditioning
                timestep]. An LCM-LoRA student also takes 2, 4 or 8 steps. A student of several steps takes these by
                default, or the first of them. A student with `inference_steps` takes any number, and no timesteps.
            sigmas, eta, guidance_scale, guidance_rescale, negative_prompt, negative_prompt_embeds: accepted for
                compatibility with stock calls, but only with values that have no effect: guidance of at most 1, empty
                negative prompts.

        Returns:
            `StableDiffusionPipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError: an argument cannot work: the student was not trained for these steps or timesteps, there is
                guidance or a negative prompt, or a value is not valid. The message names the argument.
            NotFiniteError: an image has NaN or infinite values.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        return self._generate(super().__call__, given)
