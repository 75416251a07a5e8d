# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Images from a folder, or from the image column of a parquet file or dataset."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UsageError, one_line


if TYPE_CHECKING:
    from datasets import Dataset  # slow to import


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES = "images"  # subfolder of an evaluation for generated images
UNREADABLE = (UnidentifiedImageError, OSError, Image.DecompressionBombError)


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


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as it is displayed: upright by its EXIF data, transparent parts white, 16 bits brought down to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL would clip it to 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def prepare(image: Image.Image, width: int, height: int) -> torch.Tensor:
    """The largest middle part of these proportions of a PIL image, resized: (3, height, width), uint8.

    It is resized with Lanczos, and antialiasing where needed.
    """
    image = as_rgb(image)
    scale = min(image.width / width, image.height / height)
    cropped = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (image.width - cropped[0]) // 2, (image.height - cropped[1]) // 2
    image = image.crop((left, top, left + cropped[0], top + cropped[1]))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
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
                return as_rgb(image)
        except UNREADABLE as error:
            message = f"{self.files[index]} is no readable image: replace or remove it ({one_line(error)})."
            raise UsageError(message) from None


class Column(Sequence[Image.Image]):
    """Images in a column of a dataset; `source` names it in messages.

    Raises:
        UsageError: on access, if the row has no readable image.
    """

    def __init__(self, data: "Dataset", column: str, source: str):
        self.data, self.column, self.source = data, column, source

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Image.Image:
        try:
            image = self.data[index][self.column]
        except UNREADABLE as error:
            place = f"{self.source} has no readable image in row {index + 1}"
            raise UsageError(f"{place}: remove the row ({one_line(error)}).") from None
        if image is None:
            raise UsageError(f"{self.source} has no image in row {index + 1}: remove the row.")
        return image

    def texts(self, column: str) -> list[str] | None:
        """Another column as text, stripped; None where there is no such column.

        Raises:
            UsageError: a row without a text.
        """
        if column not in self.data.column_names:
            return None
        texts = self.data.select_columns([column])[column]
        for row, text in enumerate(texts, 1):
            if not isinstance(text, str | int) or isinstance(text, bool) or not str(text).strip():
                raise UsageError(f"{self.source} has {text!r} as '{column}' in row {row}: remove that row.")
        return [str(text).strip() for text in texts]


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
