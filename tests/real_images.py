# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Small folders and files of real images."""

import io

import numpy as np
from PIL import Image


CAPTIONS = ("a red cat", "a blue dog", "a photo of the square", "on a circle", "the cat", "the dog")


def image(number, size=(32, 32)):
    """Noise of a colour of its own, as a PIL image."""
    pixels = np.random.default_rng(number).integers(40 * number, 40 * number + 40, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def save_folder(folder, captions=CAPTIONS, size=(32, 32)):
    """PNG files, and .txt files beside them where there are captions; None stands for an image without."""
    folder.mkdir()
    for number, caption in enumerate(captions):
        image(number, size).save(folder / f"{number}.png")
        if caption is not None:
            (folder / f"{number}.txt").write_text(caption + "\n")
    return str(folder)


def save_parquet(file, size=(32, 32), **columns):
    """A .parquet file with the column "image" and others, as `datasets` writes it."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    count = len(next(iter(columns.values()))) if columns else len(CAPTIONS)
    encoded = []
    for number in range(count):
        image(number, size).save(buffer := io.BytesIO(), format="png")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    data = Dataset.from_dict({"image": encoded, **columns})
    data.cast(Features({**data.features, "image": ImageFeature()})).to_parquet(str(file))
    return str(file)
