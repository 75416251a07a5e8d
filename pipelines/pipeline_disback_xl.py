# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step text-to-image with a student of an SDXL teacher."""

from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from .one_step import OneStepPipeline


class DisBackXLPipeline(OneStepPipeline, StableDiffusionXLPipeline):
    """Text to image in one UNet evaluation, with a student of an SDXL teacher.

    It is a `StableDiffusionXLPipeline` whose scheduler is an `LCMScheduler` made for the student.
    `DisBackPipeline.from_pretrained` returns one where the base is SDXL.

    Args:
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, image_encoder, feature_extractor,
        force_zeros_for_empty_prompt, add_watermarker: as in `StableDiffusionXLPipeline`.
        scheduler (`SchedulerMixin`): any scheduler of the base model: its config has the noise schedule.
        conditioning_timestep (`int`, *optional*), few_step (`bool`, *optional*): as in `DisBackPipeline`.
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
    ):  # `from_pipe` goes by these types
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
        self._make_student(conditioning_timestep, few_step)

    def __call__(
        self,
        prompt=None,
        height=None,
        width=None,
        *,
        num_images_per_prompt=1,
        generator=None,
        latents=None,
        prompt_embeds=None,
        output_type="pil",
        return_dict=True,
        prompt_2=None,
        pooled_prompt_embeds=None,
        original_size=None,
        crops_coords_top_left=(0, 0),
        target_size=None,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",),
        clip_skip=None,
        cross_attention_kwargs=None,
        ip_adapter_image=None,
        ip_adapter_image_embeds=None,
        num_inference_steps=None,
        timesteps=None,
        sigmas=None,
        denoising_end=None,
        eta=0.0,
        guidance_scale=None,
        guidance_rescale=None,
        negative_prompt=None,
        negative_prompt_2=None,
        negative_prompt_embeds=None,
        negative_pooled_prompt_embeds=None,
        negative_original_size=None,
        negative_crops_coords_top_left=(0, 0),
        negative_target_size=None,
    ):
        """Generate images in one step, an LCM-LoRA student also in 2, 4 or 8.

        Args:
            prompt, height, width, num_images_per_prompt, generator, latents, output_type, return_dict,
            num_inference_steps, timesteps, sigmas, eta, guidance_scale, guidance_rescale, negative_prompt,
            negative_prompt_embeds: as in `DisBackPipeline`.
            prompt_2 (`str` or `list[str]`, *optional*): for the second text encoder; by default `prompt`.
            prompt_embeds (`torch.Tensor`, *optional*): `(prompts, tokens, channels)`, together with
                pooled_prompt_embeds (`torch.Tensor`, *optional*): `(prompts, channels)`.
            original_size, crops_coords_top_left, target_size (`tuple[int, int]`, *optional*): height and width, or
                top and left, that the UNet is conditioned on; by default an image of the size drawn, not cropped.
            callback_on_step_end, callback_on_step_end_tensor_inputs, clip_skip, cross_attention_kwargs,
            ip_adapter_image, ip_adapter_image_embeds: as in `StableDiffusionXLPipeline`.
            denoising_end, negative_prompt_2, negative_pooled_prompt_embeds, negative_original_size,
            negative_crops_coords_top_left, negative_target_size: taken where they have no effect.

        Returns:
            `StableDiffusionXLPipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError: as in `DisBackPipeline`.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        return self._generate(super().__call__, given)
