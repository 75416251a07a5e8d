# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Images of every kind are read as they are displayed, or refused in one line."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from disback_diffusers import UsageError
from disback_diffusers.data.images import open_images, prepare


ORIENTATION = 0x0112


def test_photos_are_turned_as_their_exif_data_say(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise: left becomes top
    image.save(tmp_path / "photo.png", exif=exif)
    (upright,) = open_images(tmp_path, "--real_images")
    assert prepare(upright, 20, 40)[:, 5, 10].tolist() == [0, 0, 255], "is turned once"
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (0, 0, 255) and upright.getpixel((10, 35)) == (255, 0, 0)


def test_sixteen_bits_are_brought_down_to_eight(tmp_path):
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "grey.png")
    (image,) = open_images(tmp_path, "--real_images")
    assert image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode, colour", [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))])
def test_transparent_parts_are_white(mode, colour):
    assert (prepare(Image.new(mode, (4, 4), colour), 2, 2) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1)])
@pytest.mark.parametrize("width, height", [(64, 32), (32, 64)])
def test_thin_images_keep_their_colour(size, width, height):
    prepared = prepare(Image.new("RGB", size, (10, 20, 30)), width, height)
    assert torch.equal(prepared, torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, height, width))


def test_unreadable_images_are_named(tmp_path, monkeypatch):
    broken = Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]})
    broken.cast(Features({"image": ImageFeature()})).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(UsageError, match="--real_images .*a.parquet has no readable image in row 1: remove the row"):
        open_images(tmp_path / "a.parquet", "--real_images")[0]
    Image.new("RGB", (20, 20)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UsageError, match="big.png is no readable image: replace or remove it"):
        open_images(tmp_path, "--real_images")[0]
