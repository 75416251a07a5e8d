# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The embedded judge: a tiny CLIP that saw the same emoji and names as the embedded teacher."""

import os
from functools import cached_property

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from ..models.embedded import JUDGE, REFERENCE
from .frechet import frechet_distance, statistics


RETRIEVED = 10  # an image is retrieved if its own prompt is among the 10 nearest


class Judge:
    """Features of images and prompts in one space, and the numbers computed from them.

    Args:
        folder (`str` or `os.PathLike`): a `CLIPModel` for images in [-1, 1], with its tokenizer.
        device (`torch.device` or `str`): where it runs.
    """

    def __init__(self, folder: str | os.PathLike = JUDGE, device: torch.device | str = "cpu"):
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, h, w) in [0, 1], resized to the judge's size, to features (n, d), float32 on the CPU."""
        size = self.model.config.vision_config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        chunks = (images.clamp(0, 1) * 2 - 1).split(256)
        vision, project = self.model.vision_model, self.model.visual_projection
        return torch.cat([project(vision(chunk.to(self.model.device)).pooler_output).cpu() for chunk in chunks])

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> torch.Tensor:
        """n prompts to features (n, d), float32 on the CPU."""
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.model.text_projection(self.model.text_model(ids.to(self.model.device)).pooler_output).cpu()

    def retrieval(self, image_features: torch.Tensor, text_features: torch.Tensor, k: int = RETRIEVED) -> float:
        """Share of the images whose own prompt is among the k nearest of all prompts, by cosine.

        Args:
            image_features, text_features (`torch.Tensor` of shape `(n, d)`): row i of both belongs to prompt i.
            k (`int`).
        """
        similarity = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        own = similarity.diagonal().unsqueeze(1)
        return ((similarity > own).sum(dim=1) < k).float().mean().item()

    @cached_property
    def reference(self) -> dict[str, torch.Tensor]:
        """Of the real emoji: `mean` and `covariance` of their features, and their own `retrieval`."""
        return load_file(REFERENCE)

    def frechet_distance(self, image_features: torch.Tensor) -> float:
        """Fréchet distance of image features (n, d) from those of the real emoji."""
        real = self.reference
        return frechet_distance(*statistics(image_features), real["mean"], real["covariance"])
