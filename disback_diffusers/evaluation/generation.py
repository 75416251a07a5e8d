# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Generating one image per prompt into a folder: shared by processes, resumable, never mixing settings."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ..data.images import IMAGES
from ..errors import NotFiniteError, UsageError
from ..files import atomic_write
from .sheets import to_pil


SETTINGS = "settings.json"
WARM_UPS, TIMED = 2, 10
Draw = Callable[[list[str], list[torch.Generator]], np.ndarray]


class Generation:
    """The images `images/000000.png`, ... of a folder, one per prompt, and the settings that they depend on.

    Image i is generated from noise of its own, with `seed + i`. So it does not depend on batches, processes or the
    images that exist already.

    Args:
        folder (`str` or `os.PathLike`): `images/` and settings.json go here.
        prompts (`list[str]`): one per image.
        settings (`dict`): everything that the images depend on, as plain values, `seed` included.
    """

    def __init__(self, folder: str | os.PathLike, prompts: list[str], settings: dict):
        self.folder, self.prompts, self.settings = Path(folder), prompts, settings
        self.files = [self.folder / IMAGES / f"{i:06d}.png" for i in range(len(prompts))]

    def check(self) -> None:
        """Raise a UsageError if the folder has images of other settings."""
        file = self.folder / SETTINGS
        if not file.is_file():
            if any((self.folder / IMAGES).glob("*")):
                raise UsageError(f"--output_dir {self.folder} holds images but no {SETTINGS}: choose another folder.")
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UsageError(f"{file} cannot be read: choose another --output_dir.") from None
        for name in {**self.settings, **before}:
            if before.get(name) != self.settings.get(name):
                raise UsageError(
                    f"--output_dir {self.folder} holds images of other settings: {name} was {before.get(name)}, now "
                    f"it is {self.settings.get(name)}. Choose another folder."
                )

    def start(self) -> None:
        """Write settings.json; call it before the first image."""
        text = json.dumps(self.settings, indent=2) + "\n"
        atomic_write(self.folder / SETTINGS, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _picture(self, i, image):
        try:
            return to_pil(image)
        except NotFiniteError:
            raise self._not_finite(i) from None

    def _not_finite(self, i):
        if self.settings.get("dtype") == "fp16":
            remedy = "fp16 may have overflowed, try --dtype bf16 or fp32"
        else:
            remedy = (
                "check the weights for NaN; an epsilon model with zero terminal SNR cannot start from pure noise "
                "and needs another timestep_spacing in scheduler/scheduler_config.json"
            )
        what = f"image {i} ({self.prompts[i][:50]!r})"
        return NotFiniteError(f"{what} has values that are not finite numbers: {remedy}.")

    def missing(self) -> list[int]:
        """Indices of the images that do not exist yet."""
        return [i for i, file in enumerate(self.files) if not file.is_file()]

    def run(self, draw: Draw, batch_size: int, process: int = 0, processes: int = 1) -> None:
        """Generate the missing images of one process.

        Args:
            draw: prompts and a generator for each to images `(n, h, w, 3)` in [0, 1], such as a `text_caller`.
            batch_size (`int`): images per call.
            process (`int`), processes (`int`): its index, and the number of processes.

        Raises:
            NotFiniteError: an image has NaN or infinite values; names the image and the remedy.
            RunError: an image cannot be written.
        """
        share = [i for i in self.missing() if i % processes == process]  # independent of the others' progress
        with tqdm(total=len(self.files[process::processes]), desc="images", disable=process > 0) as bar:
            bar.update(bar.total - len(share))
            for start in range(0, len(share), batch_size):
                batch = share[start : start + batch_size]
                noise = [torch.Generator().manual_seed(self.settings["seed"] + i) for i in batch]
                try:
                    images = draw([self.prompts[i] for i in batch], noise)
                except NotFiniteError as error:  # of our own pipelines
                    raise self._not_finite(batch[error.images[0]]) from None
                for i, image in zip(batch, torch.from_numpy(images).permute(0, 3, 1, 2), strict=True):
                    picture = self._picture(i, image)
                    atomic_write(self.files[i], lambda temporary, picture=picture: picture.save(temporary, "png"))
                bar.update(len(batch))


def text_caller(pipeline: DiffusionPipeline, **call) -> Draw:
    """The `draw` of a text-to-image pipeline; `call` has further arguments of each call."""
    return lambda prompts, noise: pipeline(prompts, generator=noise, output_type="np", **call).images


def latency(draw: Draw, prompt: str) -> float:
    """Seconds per image, text encoder and VAE included: the median of ten calls, after two that do not count."""
    seconds = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        draw([prompt], [torch.Generator().manual_seed(0)])  # to the CPU, so a GPU has finished as well
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UPS:])
