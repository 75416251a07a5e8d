# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""CLIP score: how well images show their prompts. (That of torchmetrics 1.9 fails with transformers 5.)"""

from collections.abc import Sequence

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor

from ..errors import UsageError, one_line


BATCH = 32


class ClipScore:
    """Mean of 100 times the cosine between an image and its prompt (Hessel et al., 2021). Negative cosines count as 0.

    Args:
        name (`str`): folder or Hub id of a CLIP and its processor.
        device (`torch.device` or `str`): where it runs.

    Raises:
        UsageError: transformers cannot load it.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        try:
            self.processor = CLIPProcessor.from_pretrained(name)
            self.model = CLIPModel.from_pretrained(name).to(device).eval()
        except Exception as error:  # of two libraries
            raise UsageError(f"--clip_model {name} is no CLIP that transformers loads: {one_line(error)}") from None

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> float:
        """The score of images with one prompt each. The CLIP's own processor crops and resizes the images."""
        cosines = []
        for start in tqdm(range(0, len(prompts), BATCH), desc="CLIP score", leave=False):
            batch = range(start, min(start + BATCH, len(prompts)))
            cosines.append(self._cosines([images[i] for i in batch], [prompts[i] for i in batch]))
        return 100 * torch.cat(cosines).clamp(min=0).mean().item()

    @torch.no_grad()
    def _cosines(self, images, prompts):
        text = {
            "padding": True,
            "truncation": True,
            "max_length": self.model.config.text_config.max_position_embeddings,
        }
        inputs = self.processor(images=images, return_tensors="pt")
        inputs.update(self.processor.tokenizer(prompts, return_tensors="pt", **text))
        output = self.model(**inputs.to(self.model.device))
        return torch.cosine_similarity(output.image_embeds, output.text_embeds)
