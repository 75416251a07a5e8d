# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Prompts as what the UNet is conditioned on."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..data.prompts import load_prompts as load_prompts  # its former place
from ..errors import RunError, UsageError
from ..files import atomic_write


LARGEST = 16384  # pixels of a side


def pixels(text: str) -> tuple[int, int]:
    """Width and height of "1024" or "832x1216".

    Raises:
        UsageError: It is neither, or too large.
    """
    size = [int(part) for part in text.lower().split("x") if part.isascii() and part.isdigit()]
    if len(size) != text.lower().count("x") + 1 or len(size) > 2 or 0 in size:
        raise UsageError(f"--resolution {text} must be pixels, such as 1024 or 832x1216 (width x height).")
    if max(size) > LARGEST:
        raise UsageError(f"--resolution {text} is larger than {LARGEST} pixels.")
    return size[0], size[-1]


@dataclass
class Conditioning:
    """What a UNet is told beside x_t and t: hidden states (n, tokens, size), and by name what SDXL adds."""

    hidden_states: torch.Tensor
    added: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self):
        return len(self.hidden_states)

    def map(self, fn, *others):
        """`fn` on every tensor, together with the same tensor of the others."""
        return Conditioning(
            fn(self.hidden_states, *(other.hidden_states for other in others)),
            {key: fn(value, *(other.added[key] for other in others)) for key, value in self.added.items()},
        )

    def __getitem__(self, index):
        return self.map(lambda value: value[index])

    def to(self, device=None, dtype=None):
        return self.map(lambda value: value.to(device=device, dtype=dtype))

    def expand(self, n):
        """One row, n times."""
        return self.map(lambda value: value.expand(n, *value.shape[1:]))

    def where(self, mask, other):
        """Rows of `other` where the (n,) mask is true."""
        return self.map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.dim() - 1)), b, a), other)

    def cat(self, *others):
        return self.map(lambda *parts: torch.cat(parts), *others)

    def told(self, added):
        """The same with further tensors (1, k), each repeated for every row."""
        rows = {key: value.to(self.hidden_states.device).expand(len(self), -1) for key, value in added.items()}
        return Conditioning(self.hidden_states, {**self.added, **rows})

    def kwargs(self):
        """Keyword arguments of `UNet2DConditionModel.forward`."""
        return {"encoder_hidden_states": self.hidden_states, "added_cond_kwargs": self.added or None}


@dataclass
class Bucket:
    """One image size to train at."""

    latent_shape: tuple[int, int, int]  # (c, h, w)
    added: dict[str, torch.Tensor] = field(default_factory=dict)  # what the UNet is told of it: (1, k) by name


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings


class PromptBank:
    """Prompts with their conditioning, encoded when asked for or all in advance.

    Args:
        prompts (`list[str]`).
        encode: `list[str] -> Conditioning`; the empty prompt is encoded with it too.
        cache (`str`): "off" encodes each batch anew; "memory" and "disk" encode everything once, now.
        folder (`Path`, *optional*): where "disk" keeps its file; it is reused for the same prompts and `encoder_id`.
        encoder_id (`str`): tells one text encoder from another in the name of that file.
    """

    def __init__(self, prompts, encode, cache="off", folder=None, encoder_id="", show_progress=True):
        self.prompts, self.encode, self.show_progress = prompts, encode, show_progress
        self.empty = encode([""])
        self.cached = None
        if cache == "memory":
            self.cached = self._encode_all()
        elif cache == "disk":
            text = json.dumps([encoder_id, prompts]).encode()
            self.cached = self._on_disk(Path(folder) / f"{hashlib.sha256(text).hexdigest()[:16]}.safetensors")

    def __len__(self):
        return len(self.prompts)

    def batch(self, indices):
        """Conditioning of the prompts with these indices (a list), on the encoder's device or, cached, on the CPU."""
        if self.cached is None:
            return self.encode([self.prompts[i] for i in indices])
        return self.cached[torch.tensor(indices)]

    def _encode_all(self, batch_size=64):
        parts = range(0, len(self.prompts), batch_size)
        parts = tqdm(parts, desc="encoding prompts", disable=not self.show_progress or len(parts) < 100)
        result = None
        for i in parts:
            encoded = self.encode(self.prompts[i : i + batch_size])
            if result is None:  # the whole at once: SDXL's need 0.3 MB a prompt, and there shall be one copy
                result = encoded.map(lambda x: torch.empty(len(self), *x.shape[1:], dtype=x.dtype))
            result.map(lambda whole, part, i=i: whole[i : i + len(part)].copy_(part), encoded)
        return result

    def _on_disk(self, file):
        if not file.is_file():
            encoded = self._encode_all()
            tensors = {"hidden_states": encoded.hidden_states, **encoded.added}
            atomic_write(file, lambda temporary: save_file(tensors, temporary))
        try:
            with safe_open(file, "pt") as opened:  # memory-mapped: only the rows that are asked for are read
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        except Exception as error:
            raise RunError(f"{file} is damaged ({error}): delete it, it will be made again.") from None
        return Conditioning(tensors.pop("hidden_states"), tensors)
