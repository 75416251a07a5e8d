# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step text-to-image with a student of a Stable Diffusion teacher."""

from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from .one_step import DEFAULT_TIMESTEP, OneStepPipeline


class DisBackPipeline(OneStepPipeline, StableDiffusionPipeline):
    """Text to image in one UNet evaluation, with a student of a Stable Diffusion teacher.

    It is a `StableDiffusionPipeline` whose scheduler is always `one_step_scheduler`.

    Args:
        vae, text_encoder, tokenizer, unet, safety_checker, feature_extractor, image_encoder, requires_safety_checker:
            as in `StableDiffusionPipeline`.
        scheduler (`SchedulerMixin`): any scheduler of the base model: it tells the noise schedule.
        conditioning_timestep (`int`, *optional*, defaults to 399): where the student was trained to start.
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
        conditioning_timestep: int = DEFAULT_TIMESTEP,
    ):  # `from_pipe` goes by these types
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
        self._make_one_step(conditioning_timestep)

    def __call__(
        self,
        prompt=None,
        height=None,
        width=None,
        num_images_per_prompt=1,
        generator=None,
        latents=None,
        prompt_embeds=None,
        output_type="pil",
        return_dict=True,
        *,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",),
        clip_skip=None,
        cross_attention_kwargs=None,
        num_inference_steps=None,
        timesteps=None,
        guidance_scale=None,
        negative_prompt=None,
        negative_prompt_embeds=None,
    ):
        """Generate images in one step.

        Args:
            prompt (`str` or `list[str]`, *optional*): or give `prompt_embeds`.
            height, width (`int`, *optional*): in pixels; by default the size the UNet was trained at.
            num_images_per_prompt (`int`, *optional*, defaults to 1).
            generator (`torch.Generator` or a list of them, one an image, *optional*): for the noise.
            latents (`torch.Tensor`, *optional*): the noise itself, standard normal, `(n, 4, height / f, width / f)`.
            prompt_embeds (`torch.Tensor`, *optional*): `(prompts, tokens, channels)`, instead of `prompt`.
            output_type (`str`, *optional*, defaults to "pil"): "pil", "np" `(n, h, w, 3)` or "pt" `(n, 3, h, w)`,
                both in [0, 1], or "latent", the student's x0.
            return_dict (`bool`, *optional*, defaults to `True`): or a tuple (images, nsfw flags).
            callback_on_step_end, callback_on_step_end_tensor_inputs, clip_skip, cross_attention_kwargs: as in
                `StableDiffusionPipeline`.
            num_inference_steps, timesteps, guidance_scale, negative_prompt, negative_prompt_embeds: taken only with
                values that say what happens anyway: 1, [the conditioning timestep], at most 1, none.

        Returns:
            `StableDiffusionPipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError: more steps, other timesteps, guidance or a negative prompt, none of which the student knows.
        """
        self._check_one_step(num_inference_steps, timesteps, guidance_scale, negative_prompt, negative_prompt_embeds)
        return super().__call__(
            prompt,
            height,
            width,
            timesteps=[self.conditioning_timestep],
            guidance_scale=0.0,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            output_type=output_type,
            return_dict=return_dict,
            cross_attention_kwargs=cross_attention_kwargs,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
            clip_skip=clip_skip,
        )
