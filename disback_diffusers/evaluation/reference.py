# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The reference that generated images are compared with: statistics and some features of real images."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..data.images import open_images
from ..errors import UsageError, one_line
from ..files import atomic_write
from ..models.embedded import EMBEDDED, REFERENCE
from .extractors import Extractor
from .frechet import statistics
from .images import features_of


FORMAT = "disback-reference"
KEPT = 10_000  # features that are kept, for the metrics that need more than mean and covariance


@dataclass
class Reference:
    """Statistics of real images, by one extractor at one size.

    Attributes:
        mean (`torch.Tensor` of shape `(d,)`), covariance (`torch.Tensor` of shape `(d, d)`): of all images, float64.
        features (`torch.Tensor` of shape `(n, d)` or `None`): of at most 10,000 of the images.
        extractor (`str`): name of the extractor.
        size (`int`): side of the images in pixels.
        count (`int`): number of images.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    features: torch.Tensor | None
    extractor: str
    size: int
    count: int

    @classmethod
    def of(cls, features: torch.Tensor, extractor: str, size: int) -> "Reference":
        """The reference of features (n, d), with the name of their extractor and the side of the images in pixels."""
        spread = torch.linspace(0, len(features) - 1, min(KEPT, len(features))).round().long()
        return cls(*statistics(features), features[spread], extractor, size, len(features))

    def save(self, file: str | os.PathLike) -> None:
        """Write a .safetensors file for `--reference`.

        Raises:
            RunError: it cannot be written.
        """
        tensors = {"mean": self.mean, "covariance": self.covariance, "features": self.features}
        metadata = {"format": FORMAT, "extractor": self.extractor, "size": str(self.size),
                    "count": str(self.count)}  # fmt: skip
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        atomic_write(Path(file), lambda temporary: save_file(tensors, temporary, metadata))


def saved_reference(source: str | os.PathLike, flag: str = "--reference") -> Reference:
    """Read a file that `Reference.save` wrote, or the reference of the emoji.

    Args:
        source (`str` or `os.PathLike`): a .safetensors file, or "embedded".
        flag (`str`): the flag to name in messages.

    Raises:
        UsageError: the file cannot be read, is damaged, or is of another kind.
    """
    if source == EMBEDDED:
        tensors = load_file(REFERENCE)
        return Reference(tensors["mean"], tensors["covariance"], None, EMBEDDED, 32, 1644)
    try:
        with safe_open(source, framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(source)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{flag} {source} cannot be read: {one_line(error)}") from None
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{flag} {source} holds no statistics of evaluate_disback.py --save_reference.")
    try:
        mean, covariance, features = tensors["mean"], tensors["covariance"], tensors.get("features")
        size, count, extractor = int(metadata["size"]), int(metadata["count"]), metadata["extractor"]
        known = [mean, covariance] if features is None else [mean, covariance, features]
        if covariance.shape != (len(mean), len(mean)) or known[-1].shape[-1] != len(mean):
            raise ValueError("shapes that do not fit each other")
        if not all(tensor.isfinite().all() for tensor in known):
            raise ValueError("values that are not finite numbers")
    except KeyError as error:
        raise UsageError(f"{flag} {source} is damaged: it has no {error.args[0]}. Make it again.") from None
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{flag} {source} is damaged: it has {error}. Make it again.") from None
    return Reference(mean, covariance, features, extractor, size, count)


def _is_saved(source):
    return source == EMBEDDED or str(source).endswith(".safetensors")


def default_extractor(source: str | os.PathLike | None) -> str:
    """The name of the extractor that a saved reference was made with; "inception" for images, or no reference."""
    return saved_reference(source).extractor if source and _is_saved(source) else "inception"


def load_reference(
    source: str | os.PathLike,
    extractor: Extractor,
    size: int | None = None,
    count: int | None = None,
    resize: bool = True,
) -> Reference:
    """The reference that `--reference` names.

    Args:
        source (`str` or `os.PathLike`): "embedded", a saved .safetensors file, or images (folder, .parquet file, Hub
            dataset).
        extractor (`Extractor`): the one that is used for the generated images.
        size (`int`, *optional*): side in pixels that images are resized to; by default that of the reference.
        count (`int`, *optional*): take only the first `count` images; of a saved file, the number it must have.
        resize (`bool`, *optional*): whether images may be cropped and resized.

    Raises:
        UsageError: it cannot be read, has too few images, or was made with another extractor, size or count.
    """
    if not _is_saved(source):
        images = open_images(source, "--reference")
        if count and count > len(images):
            raise UsageError(
                f"--num_real_images {count} is more than the {len(images)} images of --reference {source}."
            )
        size = size or min(images[0].size)
        features = features_of(images, extractor, size, count, "reference", resize)
        return Reference.of(features, extractor.name, size)
    reference = saved_reference(source)
    if reference.extractor != extractor.name:
        raise UsageError(
            f"--reference {source} was made with --feature_extractor {reference.extractor}, not {extractor.name}."
        )
    if size not in (None, reference.size):
        raise UsageError(f"--reference {source} was made at --eval_size {reference.size}, not {size}.")
    if count not in (None, reference.count):
        raise UsageError(f"--reference {source} was made of {reference.count} images, not --num_real_images {count}.")
    return reference
