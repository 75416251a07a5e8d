# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The training prompts and their encoded conditions."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..errors import RunError
from ..files import atomic_write
from ..models.conditions import Conditions


class PromptBank:
    """Prompts and their conditions, encoded per batch or all in advance.

    Args:
        prompts (`list[str]`): an unconditional family has one empty prompt.
        encode: n prompts to `Conditions` of n rows; also used for the empty prompt.
        cache (`str`): "off" encodes each batch when it is needed. "memory" and "disk" encode all prompts now.
        folder (`str` or `os.PathLike`, *optional*): for the file of "disk". It is reused for the same prompts and
            `encoder_id`.
        encoder_id (`str`): identifies the text encoders in the name of that file.
        show_progress (`bool`): show a progress bar.
        unconditional (`str`, *optional*): the prompt that stands for none.

    Raises:
        RunError: the file of "disk" is damaged or cannot be written.
    """

    def __init__(
        self,
        prompts: list[str],
        encode: Callable[[list[str]], Conditions],
        cache: str = "off",
        folder: str | os.PathLike | None = None,
        encoder_id: str = "",
        show_progress: bool = True,
        unconditional: str = "",
    ):
        self.prompts, self.encode, self.show_progress = prompts, encode, show_progress
        self.empty = encode([unconditional])
        self.cached = None
        if cache == "memory":
            self.cached = self._encode_all()
        elif cache == "disk":
            text = json.dumps([encoder_id, prompts]).encode()
            self.cached = self._on_disk(Path(folder) / f"{hashlib.sha256(text).hexdigest()[:16]}.safetensors")

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, indices: list[int]) -> Conditions:
        """Conditions of the prompts with these indices. Cached ones are on the CPU, others on the encoder's device."""
        if self.cached is None:
            return self.encode([self.prompts[i] for i in indices])
        return self.cached[torch.tensor(indices)]

    def _encode_all(self, batch_size=64):
        starts = range(0, len(self.prompts), batch_size)
        starts = tqdm(starts, desc="encoding prompts", disable=not self.show_progress or len(starts) < 100)
        result = None
        for i in starts:
            encoded = self.encode(self.prompts[i : i + batch_size])
            if result is None:  # allocate once: SDXL needs 0.3 MB per prompt, too much for a second copy
                result = encoded.map(lambda x: torch.empty(len(self), *x.shape[1:], dtype=x.dtype))
                result.rows = len(self)
            result.map(lambda whole, rows, i=i: whole[i : i + len(rows)].copy_(rows), encoded)
        return result

    def _on_disk(self, file):
        if not file.is_file():
            tensors = self._encode_all().tensors
            atomic_write(file, lambda temporary: save_file(tensors, temporary))
        try:
            with safe_open(file, "pt") as opened:  # memory-mapped: only the rows that are used are read
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        except Exception as error:
            raise RunError(f"{file} is damaged ({error}): delete it, it will be made again.") from None
        return Conditions(tensors, len(self))
