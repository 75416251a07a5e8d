# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Real images for a discriminator: opened with their captions, encoded once, and read from the file of that."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..errors import UsageError, counted, one_line
from ..files import atomic_write
from .images import Files, open_images, prepare


FORMAT = "disback-real-images"
CAPTIONS = ".txt"  # beside an image
BATCH = 16
LOOKED_AT = 15  # images, and the first one
Size = tuple[int, int]  # height and width in pixels


@dataclass
class RealImages:
    """Real images and their captions, as they were opened.

    Attributes:
        images (`Sequence[Image.Image]`): opened one by one.
        captions (`list[str]` or `None`): one for each; None where there are none.
        identity (`str`): changes when the images do.
    """

    images: Sequence[Image.Image]
    captions: list[str] | None
    identity: str


class Samples:
    """Encoded images and their captions, in a file that `encode_images` wrote. Rows are read when they are needed.

    Args:
        file (`Path`).
        flag (`str`): start of the messages.

    Raises:
        UsageError: the file cannot be read, or is of another kind.

    Attributes:
        captions (`list[str]` or `None`).
    """

    def __init__(self, file: Path, flag: str):
        try:
            self._opened = safe_open(file, "pt")  # memory-mapped
            metadata = self._opened.metadata() or {}
            self.captions = json.loads(metadata.get("captions", "null"))
        except (OSError, SafetensorError, ValueError) as error:
            raise UsageError(f"{flag} {file} cannot be read: {one_line(error)}") from None
        if metadata.get("format") != FORMAT:
            raise UsageError(f"{flag} {file} holds no real images that a run has encoded: give the images themselves.")
        self._slices = {name: self._opened.get_slice(name) for name in self._opened.keys()}
        self._count = next(iter(self._slices.values())).get_shape()[0]
        if self.captions is not None and len(self.captions) != self._count:
            counts = f"{self._count} images and {len(self.captions)} captions"
            raise UsageError(f"{flag} {file} has {counts}: it is damaged.")

    def __len__(self) -> int:
        return self._count

    def check(self, size: Size, shape: tuple[int, ...], flag: str) -> None:
        """Raise a UsageError where the file has no samples of this size in pixels, or of another shape."""
        held = {name: tuple(part.get_shape()[1:]) for name, part in self._slices.items()}
        if held.get(_name(size)) != tuple(shape):
            wanted = "x".join(map(str, shape))
            raise UsageError(
                f"{flag} has been encoded for {', '.join(held)} (height x width), and this run needs {_name(size)} of "
                f"shape {wanted}: give the images themselves."
            )

    def rows(self, size: Size, indices: list[int]) -> torch.Tensor:
        """Samples `(n, ...)` of this size, float32."""
        part = self._slices[_name(size)]
        return torch.cat([part[i : i + 1] for i in indices]).float()


def _name(size):
    return "x".join(map(str, size))


def open_real_images(source: str, column: str, needs: str | None, flag: str) -> RealImages | Samples:
    """Open real images and their captions; nothing is decoded.

    Args:
        source (`str`): a folder of images, a .parquet file, a Hub id, or the .safetensors file of an earlier run.
            Captions of a folder are in .txt files beside the images.
        column (`str`): of the captions, in a dataset.
        needs (`str`, *optional*): why every image needs a caption; by default they may be missing.
        flag (`str`): start of the messages.

    Raises:
        UsageError: it cannot be read, or lacks captions that are needed.
    """
    if source.endswith(".safetensors"):
        if not Path(source).is_file():
            raise UsageError(f"{flag} {source}: no such file.")
        opened = Samples(Path(source), flag)
        captions = opened.captions
    else:
        images = open_images(source, flag)
        captions = _captions(images, column, f"{flag} {source}")
        opened = RealImages(images, captions, _identity(images, captions))
    if needs and captions is None:
        raise UsageError(f"{flag} {source} has no '{column}' of its images: {needs}.")
    return opened


def _captions(images, column, where):
    if isinstance(images, Files):
        files = [file.with_suffix(CAPTIONS) for file in images.files]
        present = [file for file in files if file.is_file()]
        if present and len(present) < len(files):
            missing, counts = next(file for file in files if not file.is_file()), f"{len(present)} of {len(files)}"
            raise UsageError(f"{where} has captions for {counts} images: {missing.name} is missing.")
        captions = [_read(file) for file in present] or None
    else:
        captions = images.texts(column)
    return captions


def _identity(images, captions):
    """From all captions, the sizes of all files, and some of the images, which finds most that are no images too."""
    sizes = [file.stat().st_size for file in images.files] if isinstance(images, Files) else []
    digest = hashlib.sha256(json.dumps([len(images), sizes, captions]).encode())
    for i in sorted({round(i * (len(images) - 1) / LOOKED_AT) for i in range(LOOKED_AT + 1)}):
        digest.update(images[i].convert("RGB").tobytes())
    return digest.hexdigest()[:16]


def _read(file):
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {one_line(error)}") from None


def encode_images(
    real: RealImages,
    sizes: Sequence[Size],
    encode: Callable[[torch.Tensor], torch.Tensor],
    folder: Path,
    encoder_id: str,
    show_progress: bool = True,
) -> Path:
    """Encode all images at these sizes, unless the folder has the file of that already. Returns the file.

    Args:
        real (`RealImages`).
        sizes (`list`): heights and widths in pixels. An image is cropped to their proportions and resized.
        encode: images `(n, 3, H, W)` in [0, 1] to samples `(n, ...)`.
        folder (`Path`): for the file.
        encoder_id (`str`): identifies `encode` in the name of the file.

    Raises:
        UsageError: an image cannot be read.
        RunError: the file cannot be written.
    """
    key = json.dumps([real.identity, encoder_id, [_name(size) for size in sizes]])
    file = Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if file.is_file():
        return file
    label = f"encoding {counted(len(real.images), 'real image')}"
    parts = {_name(size): [] for size in sizes}
    for start in tqdm(range(0, len(real.images), BATCH), desc=label, disable=not show_progress):
        batch = [real.images[i] for i in range(start, min(start + BATCH, len(real.images)))]
        for height, width in sizes:
            images = torch.stack([prepare(image, width, height) for image in batch]).float() / 255
            parts[_name((height, width))].append(encode(images).half())  # as exact as the images
    tensors = {name: torch.cat(rows).contiguous() for name, rows in parts.items()}
    metadata = {"format": FORMAT, "captions": json.dumps(real.captions)}
    atomic_write(file, lambda temporary: save_file(tensors, temporary, metadata))
    return file
