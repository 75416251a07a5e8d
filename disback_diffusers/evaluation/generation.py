# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Generating one image per prompt into a folder: shared by processes, resumable, never mixing settings."""

import json
import os
import time
from pathlib import Path
from statistics import median

import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from ..errors import NotFiniteError, UsageError
from ..files import atomic_write
from .images import IMAGES
from .sheets import to_pil


SETTINGS = "settings.json"
WARM_UPS, TIMED = 2, 10


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

    def run(
        self, pipeline: DiffusionPipeline, batch_size: int, process: int = 0, processes: int = 1, **kwargs
    ) -> None:
        """Generate the missing images of one process.

        Args:
            pipeline (`DiffusionPipeline`): text to image.
            batch_size (`int`): images per call.
            process (`int`), processes (`int`): its index, and the number of processes.
            kwargs: passed to each call of the pipeline.

        Raises:
            NotFiniteError: an image has NaN or infinite values; names the image and the remedy.
            RunError: an image cannot be written.
        """
        share = [i for i in self.missing() if i % processes == process]  # independent of the others' progress
        pipeline.set_progress_bar_config(disable=True)
        with tqdm(total=len(self.files[process::processes]), desc="images", disable=process > 0) as bar:
            bar.update(bar.total - len(share))
            for start in range(0, len(share), batch_size):
                batch = share[start : start + batch_size]
                noise = [torch.Generator().manual_seed(self.settings["seed"] + i) for i in batch]
                try:
                    output = pipeline([self.prompts[i] for i in batch], generator=noise, output_type="np", **kwargs)
                except NotFiniteError as error:  # of our own pipelines
                    raise self._not_finite(batch[error.images[0]]) from None
                for i, image in zip(batch, torch.from_numpy(output.images).permute(0, 3, 1, 2), strict=True):
                    picture = self._picture(i, image)
                    atomic_write(self.files[i], lambda temporary, picture=picture: picture.save(temporary, "png"))
                bar.update(len(batch))


def latency(pipeline: DiffusionPipeline, prompt: str, **kwargs) -> float:
    """Seconds per image, text encoder and VAE included: the median of ten calls, after two that do not count."""
    seconds = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        pipeline(prompt, generator=torch.Generator().manual_seed(0), **kwargs)  # to PIL, so a GPU has finished as well
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UPS:])
