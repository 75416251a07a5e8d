# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Drawing an image for each prompt into a folder: shared by processes, resumable, never mixing settings."""

import json
import time
from pathlib import Path
from statistics import median

import torch
from tqdm.auto import tqdm

from ..errors import NotFiniteError, UsageError
from ..files import atomic_write
from .images import IMAGES
from .sheets import to_pil


SETTINGS = "settings.json"
WARM_UPS, TIMED = 2, 10


class Generation:
    """Images `images/000000.png`, ... of a folder, one for each prompt, with the settings that made them.

    Image i has noise of its own, of seed + i: it does not depend on batches, processes or what was there before.

    Args:
        folder: `images/` and settings.json go here.
        prompts (`list[str]`): one for each image.
        settings (`dict`): what shapes the images, plain values; `seed` is among them.
    """

    def __init__(self, folder, prompts, settings):
        self.folder, self.prompts, self.settings = Path(folder), prompts, settings
        self.files = [self.folder / IMAGES / f"{i:06d}.png" for i in range(len(prompts))]

    def check(self):
        """Raise a UsageError if the folder holds images of other settings."""
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

    def start(self):
        """Write the settings, before the first image."""
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

    def missing(self):
        """Numbers of the images that are still to be drawn."""
        return [i for i, file in enumerate(self.files) if not file.is_file()]

    def run(self, pipeline, batch_size, process=0, processes=1, **kwargs):
        """Draw the share of one process of what is missing; `kwargs` go to the pipeline."""
        share = [i for i in self.missing() if i % processes == process]  # whatever the others have drawn by now
        pipeline.set_progress_bar_config(disable=True)
        with tqdm(total=len(self.files[process::processes]), desc="images", disable=process > 0) as bar:
            bar.update(bar.total - len(share))
            for start in range(0, len(share), batch_size):
                part = share[start : start + batch_size]
                noise = [torch.Generator().manual_seed(self.settings["seed"] + i) for i in part]
                try:
                    drawn = pipeline([self.prompts[i] for i in part], generator=noise, output_type="np", **kwargs)
                except NotFiniteError as error:  # of our own pipelines
                    raise self._not_finite(part[error.images[0]]) from None
                for i, image in zip(part, torch.from_numpy(drawn.images).permute(0, 3, 1, 2), strict=True):
                    picture = self._picture(i, image)
                    atomic_write(self.files[i], lambda temporary, picture=picture: picture.save(temporary, "png"))
                bar.update(len(part))


def latency(pipeline, prompt, **kwargs):
    """Seconds for one image, text encoder and VAE included: the median of ten, after two that do not count."""
    seconds = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        pipeline(prompt, generator=torch.Generator().manual_seed(0), **kwargs)  # to PIL: a GPU has finished, too
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARM_UPS:])
