# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The embedded judge: a tiny CLIP that saw the same emoji and names as the embedded teacher."""

from functools import cached_property

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from ..models.embedded import JUDGE, REFERENCE
from .frechet import frechet_distance, statistics


RETRIEVED = 10  # an image counts as found if its prompt is among so many


class Judge:
    """Features of images and prompts in one space, and what is measured with them.

    Args:
        folder: a CLIPModel with its tokenizer, for images in [-1, 1].
    """

    def __init__(self, folder=JUDGE, device="cpu"):
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def image_features(self, images):
        """Images (n, 3, h, w) in [0, 1] to features (n, d), float32; other sizes than the judge's are resized."""
        size = self.model.config.vision_config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        parts = (images.clamp(0, 1) * 2 - 1).split(256)
        vision, project = self.model.vision_model, self.model.visual_projection
        return torch.cat([project(vision(part.to(self.model.device)).pooler_output).cpu() for part in parts])

    @torch.no_grad()
    def text_features(self, prompts):
        """Features (n, d), float32."""
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.model.text_projection(self.model.text_model(ids.to(self.model.device)).pooler_output).cpu()

    def retrieval(self, image_features, text_features, k=RETRIEVED):
        """Share of the images (n, d) whose own prompt, of all prompts (n, d), is among the k nearest (cosine)."""
        similarity = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        own = similarity.diagonal().unsqueeze(1)
        return ((similarity > own).sum(dim=1) < k).float().mean().item()

    @cached_property
    def reference(self):
        """Of the real emoji: `mean` and `covariance` of their features, and their own `retrieval`."""
        return load_file(REFERENCE)

    def frechet_distance(self, image_features):
        """Distance of image features (n, d) from those of the real emoji."""
        real = self.reference
        return frechet_distance(*statistics(image_features), real["mean"], real["covariance"])
