# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How well images show their prompts, by a CLIP. (The one of torchmetrics 1.9 fails with transformers 5.)"""

import torch
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor

from ..errors import UsageError, one_line


BATCH = 32


class ClipScore:
    """Mean of 100 times the cosine between an image and its prompt, negative ones as 0 (Hessel et al., 2021).

    Args:
        name (`str`): folder or Hub id of a CLIP and its processor.
        device: where it runs.

    Raises:
        UsageError: there is none.
    """

    def __init__(self, name, device="cpu"):
        try:
            self.processor = CLIPProcessor.from_pretrained(name)
            self.model = CLIPModel.from_pretrained(name).to(device).eval()
        except Exception as error:  # of two libraries
            raise UsageError(f"--clip_model {name} is no CLIP that transformers loads: {one_line(error)}") from None

    def __call__(self, images, prompts):
        """Of a sequence of PIL images, as the CLIP's own processor crops and resizes them, and as many prompts."""
        cosines = []
        for start in tqdm(range(0, len(prompts), BATCH), desc="CLIP score", leave=False):
            part = range(start, min(start + BATCH, len(prompts)))
            cosines.append(self._cosines([images[i] for i in part], [prompts[i] for i in part]))
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
