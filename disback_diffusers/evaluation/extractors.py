# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Feature extractors that images are compared by: Inception, a CLIP, or the embedded judge."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import UsageError, one_line
from .judge import Judge


class Extractor:
    """Images to features.

    Args:
        name (`str`): for records. Features of different names must not be compared.
        function: images (n, 3, h, w), uint8, on the device, to features (n, d).
        device (`torch.device` or `str`): where it runs.
    """

    def __init__(self, name: str, function: Callable[[torch.Tensor], torch.Tensor], device: torch.device | str):
        self.name, self.function, self.device = name, function, device

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, h, w), uint8, to features (n, d), float32 on the CPU."""
        return self.function(images.to(self.device)).float().cpu()


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """An extractor by its name: "inception" (that of FID), "embedded" (judge of the emoji), or a CLIP's folder or id.

    Raises:
        UsageError: a package is missing, the weights cannot be downloaded, or it is not a CLIP; the message has the
            remedy.
    """
    if name == "inception":
        return Extractor(name, _inception(device), device)
    if name == "embedded":
        judge = Judge(device=device)
        return Extractor(name, lambda images: judge.image_features(images / 255), device)
    return Extractor(name, _clip(name, device), device)


def _inception(device):
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import NoTrainInceptionV3
    except (ImportError, RuntimeError):  # the second from a torchvision made for another torch
        raise UsageError(
            "inception needs torchmetrics, torch-fidelity and the torchvision of your torch: "
            'pip install "disback-diffusers[eval]" torch-fidelity torchvision; or give a CLIP.'
        ) from None
    try:
        network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).to(device)
    except OSError as error:  # what urllib raises
        where = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
        raise UsageError(
            f"inception: its weights cannot be downloaded ({one_line(error)}): put "
            f"{URL_INCEPTION_V3} at {where}, or give a CLIP's folder."
        ) from None
    return lambda images: network(images)


def _clip(name, device):
    from transformers import CLIPImageProcessor, CLIPModel

    try:
        processor = CLIPImageProcessor.from_pretrained(name)
        model = CLIPModel.from_pretrained(name).to(device).eval()
    except Exception as error:  # of two libraries
        known = 'expected "inception", "embedded", or the folder or Hub id of a CLIP'
        raise UsageError(f"{name}: {known} ({one_line(error)})") from None
    size = model.config.vision_config.image_size
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (processor.image_mean, processor.image_std))

    def features(images):
        images = F.interpolate(images / 255, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return model.visual_projection(model.vision_model((images - mean) / std).pooler_output)

    return features
