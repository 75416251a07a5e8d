# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Prompts with their conditions: encoded when asked for, or once and kept."""

import pytest
import torch

from disback_diffusers.data.bank import PromptBank
from disback_diffusers.errors import RunError
from disback_diffusers.models.conditions import Conditions


class Encoder:
    """Counts what it encodes. A prompt becomes its length; the second tensor is in the place of what SDXL adds."""

    def __init__(self):
        self.encoded = []

    def __call__(self, prompts):
        self.encoded += prompts
        lengths = torch.tensor([[[float(len(prompt))] * 3] * 2 for prompt in prompts])
        return Conditions({"text": lengths, "pooled": lengths[:, 0]})


PROMPTS = ["a", "bb", "ccc", "dddd"]


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_every_cache_gives_the_same(cache, tmp_path):
    bank = PromptBank(PROMPTS, Encoder(), cache, tmp_path)
    batch = bank.batch([2, 0, 2])
    assert batch.tensors["text"][:, 0, 0].tolist() == [3, 1, 3]
    assert batch.tensors["pooled"][:, 0].tolist() == [3, 1, 3]
    assert bank.empty.tensors["text"].shape == (1, 2, 3) and not bank.empty.tensors["text"].any()
    assert len(bank) == 4 and len(batch) == 3


@pytest.mark.parametrize("cache, encoded", [("off", 1 + 2), ("memory", 1 + 4), ("disk", 1 + 4)])
def test_what_is_cached_is_encoded_once(cache, encoded, tmp_path):
    encoder = Encoder()
    PromptBank(PROMPTS, encoder, cache, tmp_path).batch([1, 2])
    assert len(encoder.encoded) == encoded


def test_more_prompts_than_are_encoded_at_once():
    prompts = ["x" * (i % 9) for i in range(200)]
    batch = PromptBank(prompts, Encoder(), "memory").batch(list(range(200)))
    assert batch.tensors["text"][:, 1, 2].tolist() == [i % 9 for i in range(200)]


def test_the_disk_cache_is_reused_for_the_same_prompts_and_encoder_only(tmp_path):
    first, again, others, other_encoder = Encoder(), Encoder(), Encoder(), Encoder()
    PromptBank(PROMPTS, first, "disk", tmp_path, "e")
    PromptBank(PROMPTS, again, "disk", tmp_path, "e")
    PromptBank(PROMPTS[::-1], others, "disk", tmp_path, "e")
    PromptBank(PROMPTS, other_encoder, "disk", tmp_path, "f")
    assert [len(encoder.encoded) for encoder in (first, again, others, other_encoder)] == [5, 1, 5, 5]


def test_a_damaged_cache_is_named(tmp_path):
    PromptBank(PROMPTS, Encoder(), "disk", tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match=file.name):
        PromptBank(PROMPTS, Encoder(), "disk", tmp_path)


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_an_unconditional_family_has_one_empty_prompt(cache, tmp_path):
    bank = PromptBank([""], lambda prompts: Conditions(rows=len(prompts)), cache, tmp_path)
    assert len(bank) == len(bank.empty) == 1 and len(bank.batch([0, 0, 0])) == 3
