# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which images are generated, from which noise; and what they are cut to before they are measured."""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from disback_diffusers.data.images import prepare
from disback_diffusers.evaluation.generation import Generation, text_caller
from disback_diffusers.files import weights_digest


def test_each_process_generates_its_share_and_each_image_has_noise_of_its_own(sd_folder, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(sd_folder)
    generation = Generation(tmp_path, ["a red cat"] * 5, {"seed": 7})
    call = {"num_inference_steps": 1, "guidance_scale": 1}
    draw = text_caller(pipeline, **call)
    generation.run(draw, 2, process=1, processes=2)
    assert generation.missing() == [0, 2, 4]
    generation.run(draw, 2, process=0, processes=2)
    assert generation.missing() == []
    images = [np.array(Image.open(file)) for file in generation.files]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])
    alone = pipeline("a red cat", generator=torch.Generator().manual_seed(7 + 3), **call).images[0]
    assert np.abs(images[3].astype(int) - np.array(alone)).max() <= 1


def test_a_digest_distinguishes_trainings(tmp_path):
    file, found = tmp_path / "unet" / "model.safetensors", set()
    file.parent.mkdir()
    for content in (bytes(3 << 20), b"1" + bytes(3 << 20), b"1" + bytes((3 << 20) - 1), bytes((3 << 20) - 1) + b"1"):
        file.write_bytes(content)
        found.add(weights_digest(tmp_path))
    assert len(found) == 4
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "ema.safetensors").write_bytes(b"1")
    assert weights_digest(tmp_path) in found and weights_digest("owner/name") is None


def test_the_middle_square_is_measured():
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = (10, 20, 30)
    for turned in (pixels, pixels.transpose(1, 0, 2)):
        assert torch.equal(
            prepare(Image.fromarray(turned), 4, 4), torch.tensor([10, 20, 30]).view(3, 1, 1).expand(3, 4, 4)
        )
    checks = np.indices((8, 8)).sum(0) % 2 * 255
    smaller = prepare(Image.fromarray(checks.astype(np.uint8)), 4, 4)
    assert smaller.shape == (3, 4, 4) and (smaller.int() - 128).abs().max() < 30  # averaged, not picked
