# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stable Diffusion XL, and what is fine-tuned from it."""

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..conditions import Conditions
from ..source import ModelSource
from .sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """A `StableDiffusionXLPipeline`.

    Its conditions are "text" (n, tokens, size) of both text encoders, "pooled" (n, size) of the second, and "sizes"
    (n, 6): height and width of the original, top and left of the crop, height and width of the target, in pixels.
    """

    pipeline_name = "StableDiffusionXLPipeline"
    pipeline_class = StableDiffusionXLPipeline
    stock_guidance_scale = 5.0
    text_encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    addition_embed_type = "text_time"

    def __init__(self, source: ModelSource):
        super().__init__(source)
        self._zeros_for_empty = source.index.get("force_zeros_for_empty_prompt", True)

    def _text_part(self, encoder, kind):
        if (self.source.index.get(encoder) or (None,))[0] is None:
            raise self.error(f"has no {encoder} (a refiner?): take the base model.")
        return super()._text_part(encoder, kind)

    def _check_text_sizes(self):
        super()._check_text_sizes()
        if self.network_config["addition_time_embed_dim"] is None:
            raise self.error("has no valid unet/ config: addition_time_embed_dim is missing.")
        pooled, given = self._pooled_size(), self.text_parts[-1].config.projection_dim
        if pooled != given:
            raise self.error(
                f"has a UNet for pooled prompts of size {pooled}, but text_encoder_2 gives {given}: the parts are of "
                "different models."
            )

    def _pooled_size(self):
        config = self.network_config
        return config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]

    def _added(self, conditions):
        return {"text_embeds": conditions.tensors["pooled"], "time_ids": conditions.tensors["sizes"]}

    def _encode(self, pipeline, prompts):
        device = pipeline.text_encoder.device
        text, _, pooled, _ = pipeline.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        conditions = Conditions({"text": text, "pooled": pooled})
        if self._zeros_for_empty:  # as the pipeline has it for a negative prompt that is left out
            empty = torch.tensor([prompt == "" for prompt in prompts], device=device)
            conditions = conditions.where(empty, conditions.map(torch.zeros_like))
        return conditions

    def example_conditions(self) -> Conditions:
        """As in `Family`."""
        return super().example_conditions().joined({"pooled": torch.zeros(1, self._pooled_size())})

    def _size_conditions(self, height, width):
        """Of an image of this very size, not cropped."""
        return {"sizes": torch.tensor([[height, width, 0, 0, height, width]])}

    def _stock_options(self):
        return {"add_watermarker": False}

    def _call_arguments(self, conditions, empty, height, width):
        pooled = {"pooled_prompt_embeds": conditions, "negative_pooled_prompt_embeds": empty}
        sizes = {"original_size": (height, width), "target_size": (height, width)}
        given = {name: rows.tensors["pooled"] for name, rows in pooled.items()}
        return {**super()._call_arguments(conditions, empty, height, width), **given, **sizes}
