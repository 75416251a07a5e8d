# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.

import pytest
import torch

from disback_diffusers.errors import RunError
from disback_diffusers.models.conditioning import Conditioning, PromptBank


class Encoder:
    """Counts what it encodes; a prompt's state is its length, and a second tensor stands for what SDXL adds."""

    def __init__(self):
        self.encoded = []

    def __call__(self, prompts):
        self.encoded += prompts
        sizes = torch.tensor([[[float(len(prompt))] * 3] * 2 for prompt in prompts])
        return Conditioning(sizes, {"text_embeds": sizes[:, 0]})


PROMPTS = ["a", "bb", "ccc", "dddd"]


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_every_cache_gives_the_same(cache, tmp_path):
    bank = PromptBank(PROMPTS, Encoder(), cache, tmp_path)
    batch = bank.batch([2, 0, 2])
    assert batch.hidden_states[:, 0, 0].tolist() == [3, 1, 3]
    assert batch.added["text_embeds"][:, 0].tolist() == [3, 1, 3]
    assert bank.empty.hidden_states.shape == (1, 2, 3) and len(bank) == 4


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


def test_conditioning_is_picked_mixed_and_joined_row_by_row():
    one, other = Encoder()(["a", "bb"]), Encoder()([""]).expand(2)
    mixed = one.where(torch.tensor([True, False]), other)
    assert mixed.hidden_states[:, 0, 0].tolist() == [0, 2] and mixed.added["text_embeds"][:, 0].tolist() == [0, 2]
    assert one.cat(other).hidden_states[:, 0, 0].tolist() == [1, 2, 0, 0]
    assert one[1:].added["text_embeds"].tolist() == [[2, 2, 2]]
    assert one.to(dtype=torch.bfloat16).hidden_states.dtype == torch.bfloat16
