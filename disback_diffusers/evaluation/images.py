# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The features of images that are measured."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..data.images import prepare
from ..errors import UsageError


BATCH = 64


class Part(Sequence[Image.Image]):
    """`count` of the images of a sequence, from `start` on."""

    def __init__(self, images: Sequence[Image.Image], start: int, count: int):
        self.images, self.start, self.count = images, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return self.images[self.start + index]


def features_of(
    images: Sequence[Image.Image],
    extractor: Callable[[torch.Tensor], torch.Tensor],
    size: int,
    count: int | None = None,
    label: str = "features",
    resize: bool = True,
) -> torch.Tensor:
    """Features (n, d) of images, float32 on the CPU.

    Args:
        images (`Sequence` of `PIL.Image.Image`).
        extractor (`Extractor`): images (n, 3, size, size), uint8, to features (n, d).
        size (`int`): side in pixels that `prepare` resizes the images to.
        count (`int`, *optional*): take only the first `count` images.
        label (`str`): of the progress bar.
        resize (`bool`, *optional*): whether images may be cropped and resized.

    Raises:
        UsageError: an image has another size, and may not be resized.
    """
    rows, count = [], count or len(images)
    for start in tqdm(range(0, count, BATCH), desc=label, leave=False, disable=count <= BATCH):
        batch = [images[i] for i in range(start, min(start + BATCH, count))]
        if wrong := [image.size for image in batch if not resize and image.size != (size, size)]:
            raise UsageError(
                f"an image of {label} is {wrong[0][0]}x{wrong[0][1]}, not {size}x{size}, and the --protocol resizes "
                "nothing: give images of one size, or --eval_size."
            )
        batch = [prepare(image, size, size) for image in batch]
        rows.append(extractor(torch.stack(batch)))
    return torch.cat(rows)
