# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Images to measure: of a folder, or of a parquet file or dataset with an image column."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ..errors import UsageError, one_line


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES = "images"  # where an evaluation draws them, in its own folder
BATCH = 64


def image_files(folder):
    """The image files in a folder's images/, if there is one, or right in it, by name.

    Raises:
        UsageError: no folder, or none that can be read.
    """
    inner = Path(folder) / IMAGES
    try:
        files = sorted((inner if inner.is_dir() else Path(folder)).iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; give a folder of images.") from None
    return [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]


def prepare(image, size):
    """A PIL image to (3, size, size), uint8: the middle square, resized by Lanczos with antialiasing where needed."""
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_images(source, flag):
    """A sequence of PIL images: `len()` and `[i]`.

    Args:
        source: a folder of images, a .parquet file, or the Hub id of a dataset.
        flag (`str`): the flag to name in messages.

    Raises:
        UsageError: nothing there, or no images in it.
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


class Files:
    """Images in files, opened one by one."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        try:
            with Image.open(self.files[index]) as image:
                return image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UsageError(f"{self.files[index]} is no readable image: {one_line(error)}") from None


class Column:
    """Images of a dataset's column."""

    def __init__(self, data, column, source):
        self.data, self.column, self.source = data, column, source

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
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


def features_of(images, extractor, size, count=None, label="features"):
    """Features (n, d) of images, after `prepare`; of the first `count` only, if given."""
    rows, count = [], count or len(images)
    for start in tqdm(range(0, count, BATCH), desc=label, leave=False):
        part = [prepare(images[i], size) for i in range(start, min(start + BATCH, count))]
        rows.append(extractor(torch.stack(part)))
    return torch.cat(rows)
