# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""One-step text-to-image with a student of a Stable Diffusion teacher."""

from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from .one_step import OneStepPipeline


class DisBackPipeline(OneStepPipeline, StableDiffusionPipeline):
    """Text to image in one UNet evaluation, with a student of a Stable Diffusion teacher.

    It is a `StableDiffusionPipeline` whose scheduler is an `LCMScheduler` made for the student.

    Args:
        vae, text_encoder, tokenizer, unet, safety_checker, feature_extractor, image_encoder, requires_safety_checker:
            as in `StableDiffusionPipeline`.
        scheduler (`SchedulerMixin`): any scheduler of the base model: its config has the noise schedule.
        conditioning_timestep (`int`, *optional*): where the student was trained to start. By default that of a
            one-step scheduler; with any other 399, with a warning.
        few_step (`bool`, *optional*): whether the student is an LCM-LoRA that was trained at later timesteps too, for
            2, 4 and 8 steps.
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
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",),
        clip_skip=None,
        cross_attention_kwargs=None,
        ip_adapter_image=None,
        ip_adapter_image_embeds=None,
        num_inference_steps=None,
        timesteps=None,
        sigmas=None,
        eta=0.0,
        guidance_scale=None,
        guidance_rescale=None,
        negative_prompt=None,
        negative_prompt_embeds=None,
    ):
        """Generate images in one step, an LCM-LoRA student also in 2, 4 or 8.

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
            callback_on_step_end, callback_on_step_end_tensor_inputs, clip_skip, cross_attention_kwargs,
            ip_adapter_image, ip_adapter_image_embeds: as in `StableDiffusionPipeline`.
            num_inference_steps, timesteps (*optional*): 1 and [the conditioning timestep]; an LCM-LoRA student may
                also be called with 2, 4 or 8 steps.
            sigmas, eta, guidance_scale, guidance_rescale, negative_prompt, negative_prompt_embeds: taken as a stock
                call gives them, where they have no effect: guidance at most 1, empty negative prompts.

        Returns:
            `StableDiffusionPipelineOutput` with `images`, or a tuple.

        Raises:
            UsageError: steps or timesteps that the student was not trained for, guidance or a negative prompt, or a
                value that cannot work; names the argument.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        return self._generate(super().__call__, given)
