# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from real_images import CAPTIONS, image, save_folder, save_parquet

from disback_diffusers.data.real_images import RealImages, Samples, encode_images, open_real_images
from disback_diffusers.errors import UsageError


FLAG = "--real_images"


def opened(source, column="text", needs=None):
    return open_real_images(source, column, needs, FLAG)


def encoded(real, folder, sizes=((8, 8),), calls=None):
    """The file; a sample is the image itself, its colours doubled."""

    def encode(images):
        if calls is not None:
            calls.append(len(images))
        return images * 2

    return encode_images(real, sizes, encode, folder, "twice", show_progress=False)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return save_parquet(
        tmp_path_factory.mktemp("data") / "images.parquet", text=list(CAPTIONS), label=[3, 1, 4, 1, 5, 9]
    )


def test_captions_are_in_text_files_or_a_column(tmp_path, parquet):
    folder = save_folder(tmp_path / "real")
    assert opened(folder).captions == opened(parquet).captions == list(CAPTIONS)
    assert opened(parquet, "label").captions == ["3", "1", "4", "1", "5", "9"]
    assert opened(parquet, "description").captions is None
    assert opened(save_folder(tmp_path / "bare", [None, None])).captions is None


def test_samples_are_those_of_the_images_in_their_order(tmp_path, parquet):
    real = opened(parquet)
    samples = Samples(encoded(real, tmp_path, sizes=((8, 8), (8, 16))), FLAG)
    assert len(samples) == 6 and samples.captions == list(CAPTIONS)
    rows = samples.rows((8, 8), [4, 1, 1])
    assert rows.dtype == torch.float32 and rows.shape == (3, 3, 8, 8) and torch.equal(rows[1], rows[2])
    for row, number in zip(rows, (4, 1)):
        expected = np.asarray(image(number)).mean() / 255 * 2
        assert row.mean().item() == pytest.approx(expected, abs=0.01)
    assert samples.rows((8, 16), [0]).shape == (1, 3, 8, 16)


def test_they_are_encoded_once(tmp_path, parquet):
    calls, real = [], opened(parquet)
    first = encoded(real, tmp_path, calls=calls)
    assert calls == [6] and encoded(opened(parquet), tmp_path, calls=calls) == first and calls == [6]
    assert encoded(real, tmp_path, sizes=((8, 4),), calls=calls) != first
    other = save_folder(tmp_path / "real")
    assert encoded(opened(other), tmp_path, calls=calls) != first and len(calls) == 3


def test_what_was_encoded_can_be_given_instead(tmp_path, parquet):
    file = encoded(opened(parquet), tmp_path)
    again = opened(str(file))
    assert isinstance(again, Samples) and again.captions == list(CAPTIONS)
    again.check((8, 8), (3, 8, 8), FLAG)
    for size, shape in (((16, 16), (3, 16, 16)), ((8, 8), (4, 8, 8))):
        with pytest.raises(
            UsageError, match=r"--real_images has been encoded for 8x8 .*this run needs .*: give the im"
        ):
            again.check(size, shape, FLAG)
    bare = encoded(RealImages([image(0)], None, "one"), tmp_path)
    assert Samples(bare, FLAG).captions is None


def test_other_images_have_another_identity(tmp_path):
    one = opened(save_folder(tmp_path / "one")).identity
    assert one == opened(save_folder(tmp_path / "two")).identity
    changed = save_folder(tmp_path / "changed")
    image(9).save(tmp_path / "changed" / "3.png")
    others = [changed, save_folder(tmp_path / "fewer", CAPTIONS[:5]), save_folder(tmp_path / "bare", [None] * 6)]
    assert len({one, *(opened(other).identity for other in others)}) == 4


def test_what_cannot_be_used(tmp_path, parquet):
    partly = save_folder(tmp_path / "partly", ["a", None, "b"])
    with pytest.raises(UsageError, match=r"--real_images .*partly has captions for 2 of 3 images: 1.txt is missing"):
        opened(partly)
    with pytest.raises(UsageError, match="has no 'caption' of its images: there is no empty class"):
        opened(parquet, "caption", needs="there is no empty class")
    with pytest.raises(UsageError, match="has '' as 'text' in row 2: remove that row"):
        opened(save_parquet(tmp_path / "gap.parquet", text=["a", "", "b"]))
    with pytest.raises(UsageError, match="--real_images .*: no such file"):
        opened(str(tmp_path / "missing.safetensors"))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UsageError, match="text.safetensors cannot be read"):
        opened(str(tmp_path / "text.safetensors"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    with pytest.raises(UsageError, match="a.png is no readable image"):
        opened(str(tmp_path / "broken"))


def test_weights_of_something_else(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="holds no real images that a run has encoded"):
        opened(str(tmp_path / "other.safetensors"))
