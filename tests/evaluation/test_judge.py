# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The embedded judge and teacher, as they are in the package."""

from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.models.embedded import EMBEDDED, FOLDER, PROMPTS, REFERENCE, resolve


DATA = Path(__file__).parents[2] / "examples" / "data" / "noto_emoji_32.parquet"


@pytest.fixture(scope="module")
def judge():
    return Judge()


@pytest.fixture(scope="module")
def pairs():
    data = load_dataset("parquet", data_files=str(DATA), split="train").with_format("torch")
    return torch.stack(list(data["image"])).float() / 255, list(data["text"])


@pytest.mark.slow
def test_it_knows_the_real_emoji_by_their_names(judge, pairs):
    images, names = pairs
    assert names == PROMPTS.read_text(encoding="utf-8").splitlines() and len(names) == 1644
    features, text = judge.image_features(images), judge.text_features(names)
    retrieval = judge.retrieval(features, text)
    assert retrieval > 0.95
    assert retrieval == pytest.approx(judge.reference["retrieval"].item(), abs=0.01)
    assert judge.frechet_distance(features) < 0.01
    assert judge.retrieval(features.roll(822, dims=0), text) < 0.05  # neighbours are much alike


@pytest.mark.slow
def test_it_distinguishes_noise_and_wrong_colours_from_emoji(judge, pairs):
    images, _ = pairs
    noisy = (images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 0.5).clamp(0, 1)
    inverted = 1 - images
    near, far = (
        judge.frechet_distance(judge.image_features(images[::2])),
        [judge.frechet_distance(judge.image_features(x)) for x in (noisy, inverted)],
    )
    assert min(far) > 10 * near


def test_retrieval_counts_the_own_prompt_among_the_nearest(judge):
    text = torch.eye(4)
    images = torch.tensor([[1.0, 0, 0, 0], [0.9, 1, 0, 0], [1, 0.8, 0.5, 0], [1, 0.8, 0.6, 0.5]])
    assert [judge.retrieval(images, text, k) for k in (1, 2, 3, 4)] == [0.5, 0.5, 0.75, 1.0]


def test_the_embedded_files_are_small_safetensors_in_half_precision():
    files = list(FOLDER.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 16e6
    for file in set(files) - {REFERENCE}:
        floats = [value.dtype for value in load_file(file).values() if value.is_floating_point()]
        assert len(floats) > 10 and set(floats) == {torch.float16}
    assert not [file for file in FOLDER.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


@pytest.mark.slow
def test_the_teacher_shows_what_it_is_asked_for(judge):
    pipeline = StableDiffusionPipeline.from_pretrained(resolve(EMBEDDED))
    pipeline.set_progress_bar_config(disable=True)
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    chosen = prompts[::60]
    noise = torch.randn(len(chosen), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = pipeline(chosen, latents=noise, num_inference_steps=10, guidance_scale=2.0, output_type="pt").images
    similarity = judge.image_features(images), judge.text_features(prompts)
    nearest = (
        torch.nn.functional.normalize(similarity[0], dim=-1) @ torch.nn.functional.normalize(similarity[1], dim=-1).T
    )
    ranks = (nearest > nearest[torch.arange(len(chosen)), torch.arange(0, len(prompts), 60)].unsqueeze(1)).sum(dim=1)
    assert (ranks < 10).float().mean() > 0.5
