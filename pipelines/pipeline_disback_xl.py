# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step text-to-image with a student of an SDXL teacher."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion_xl import StableDiffusionXLPipelineOutput
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from .text_to_image import TextToImagePipeline


class DisBackXLPipeline(TextToImagePipeline, StableDiffusionXLPipeline):
    """Text to image in one UNet evaluation, with a student of an SDXL teacher.

    It is a `StableDiffusionXLPipeline` whose scheduler is an `LCMScheduler` made for the student.
    `DisBackPipeline.from_pretrained` returns one if the base is SDXL.

    Args:
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, image_encoder, feature_extractor,
        force_zeros_for_empty_prompt, add_watermarker: as in `StableDiffusionXLPipeline`.
        scheduler (`SchedulerMixin`): any scheduler of the base model. Its config defines the noise schedule.
        conditioning_timestep (`int`, *optional*), few_step (`bool`, *optional*), student_timesteps (`list[int]`,
            *optional*), inference_steps (`int`, *optional*): as in `DisBackPipeline`.
    """

    stock_class = StableDiffusionXLPipeline
    stock_options = ("force_zeros_for_empty_prompt",)

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        add_watermarker: bool | None = None,
        conditioning_timestep: int | None = None,
        few_step: bool = False,
        student_timesteps: list[int] | None = None,
        inference_steps: int | None = None,
    ):  # diffusers' `from_pipe` inspects these types
        super().__init__(
            vae,
            text_encoder,
            text_encoder_2,
            tokenizer,
            tokenizer_2,
            unet,
            scheduler,
            image_encoder,
            feature_extractor,
            force_zeros_for_empty_prompt,
            add_watermarker,
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
        prompt_2: str | list[str] | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        clip_skip: int | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        num_inference_steps: int | None = None,
        timesteps: int | Sequence[int] | None = None,
        sigmas: None = None,
        denoising_end: float | None = None,
        eta: float | None = 0.0,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        negative_prompt_embeds: None = None,
        negative_pooled_prompt_embeds: None = None,
        negative_original_size: None = None,
        negative_crops_coords_top_left: tuple[int, int] | None = (0, 0),
        negative_target_size: None = None,
    ) -> StableDiffusionXLPipelineOutput | tuple:
        """Generate images in as many steps as the student was trained for, by default one.

        Args:
            prompt, height, width, num_images_per_prompt, generator, latents, output_type, return_dict,
            num_inference_steps, timesteps, sigmas, eta, guidance_scale, guidance_rescale, negative_prompt,
            negative_prompt_embeds: as in `DisBackPipeline`.
            prompt_2 (`str` or `list[str]`, *optional*): for the second text encoder; by default `prompt`.
            prompt_embeds (`torch.Tensor`, *optional*): `(prompts, tokens, channels)`; requires `pooled_prompt_embeds`.
            pooled_prompt_embeds (`torch.Tensor`, *optional*): `(prompts, channels)`.
            original_size, crops_coords_top_left, target_size (`tuple[int, int]`, *optional*): height and width, or
                top and left, in pixels, that the UNet is conditioned on. The defaults describe an image of the
                generated size that is not cropped.
            callback_on_step_end, callback_on_step_end_tensor_inputs, clip_skip, cross_attention_kwargs,
            ip_adapter_image, ip_adapter_image_embeds: as in `StableDiffusionXLPipeline`.
            denoising_end, negative_prompt_2, negative_pooled_prompt_embeds, negative_original_size,
            negative_crops_coords_top_left, negative_target_size: accepted for compatibility with stock calls,
                but only with values that have no effect.

        Returns:
            `StableDiffusionXLPipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError, NotFiniteError: as in `DisBackPipeline`.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        return self._generate(super().__call__, given)
