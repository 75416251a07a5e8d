# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The images to measure: a folder, or the image column of a parquet file or dataset."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ..errors import UsageError, one_line


if TYPE_CHECKING:
    from datasets import Dataset  # slow to import


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES = "images"  # subfolder of an evaluation for generated images
BATCH = 64


def image_files(folder: str | os.PathLike) -> list[Path]:
    """The image files in `images/` of a folder, or without it in the folder itself, sorted by name.

    Raises:
        UsageError: the folder does not exist or cannot be read.
    """
    inner = Path(folder) / IMAGES
    try:
        files = sorted((inner if inner.is_dir() else Path(folder)).iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; give a folder of images.") from None
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]


def prepare(image: Image.Image, size: int) -> torch.Tensor:
    """The middle square of a PIL image, resized with Lanczos and antialiasing where needed: (3, size, size), uint8."""
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_images(source: str | os.PathLike, flag: str) -> Sequence[Image.Image]:
    """A sequence of PIL images that are opened one by one.

    Args:
        source (`str` or `os.PathLike`): a folder of images, a .parquet file, or the Hub id of a dataset.
        flag (`str`): the flag to name in messages.

    Raises:
        UsageError: it does not exist, or has no images.
    """
    path = Path(source)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise UsageError(f"{flag} {source} holds no image ({', '.join(SUFFIXES)}).")
        return Files(files)
    is_parquet = path.suffix.lower() == ".parquet"
    if is_parquet and not path.is_file():
        raise UsageError(f"{flag} {source}: no such file.")
    if path.exists() and not is_parquet:
        raise UsageError(f"{flag} {source}: expected a folder of images, a .parquet file or a Hub dataset.")
    return _dataset(path, source, flag)


class Files(Sequence[Image.Image]):
    """Images in files, opened one by one.

    Raises:
        UsageError: on access, if the file is not a readable image.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image:
        try:
            with Image.open(self.files[index]) as image:
                return image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UsageError(f"{self.files[index]} is no readable image: {one_line(error)}") from None


class Part(Sequence[Image.Image]):
    """`count` of the images of a sequence, from `start` on."""

    def __init__(self, images: Sequence[Image.Image], start: int, count: int):
        self.images, self.start, self.count = images, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return self.images[self.start + index]


class Column(Sequence[Image.Image]):
    """Images in a column of a dataset; `source` names it in messages.

    Raises:
        UsageError: on access, if the row has no image.
    """

    def __init__(self, data: "Dataset", column: str, source: str):
        self.data, self.column, self.source = data, column, source

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Image.Image:
        image = self.data[index][self.column]
        if image is None:
            raise UsageError(f"{self.source} has no image in row {index + 1}: remove the row.")
        return image


def _dataset(path, source, flag):
    import datasets

    try:
        if path.suffix.lower() == ".parquet":
            data = datasets.load_dataset("parquet", data_files=str(path), split="train")
        else:
            data = datasets.load_dataset(str(source), split="train")
    except Exception as error:  # datasets raises many kinds, from connection errors to pyarrow's
        raise UsageError(f"{flag} {source} cannot be loaded: {one_line(error)}") from None
    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise UsageError(f"{flag} {source} has no column of images (it has {', '.join(data.column_names)}).")
    return Column(data, columns[0], f"{flag} {source}")


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
        batch = [prepare(image, size) for image in batch]
        rows.append(extractor(torch.stack(batch)))
    return torch.cat(rows)
