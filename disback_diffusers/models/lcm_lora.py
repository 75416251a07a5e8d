# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LCM-LoRA files: read in any key style, and written in the same layout."""

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from diffusers import LCMScheduler
from safetensors.torch import save_file

from ..files import LORA_NAME, atomic_write
from .lora_file import LoraFile


def lcm_scheduler(config: dict) -> LCMScheduler:
    """The `LCMScheduler` of the noise schedule that another scheduler's config has.

    It does not clip x0, as training does not.
    """
    known = inspect.signature(LCMScheduler.__init__).parameters
    config = {key: value for key, value in config.items() if key in known or key.startswith("_")}
    return LCMScheduler.from_config(config, clip_sample=False, thresholding=False)


def timesteps_by_steps(
    scheduler_config: dict, first: int, trained: Iterable[int] | None = None
) -> dict[int, list[int]]:
    """The timesteps of each number of steps, of 1, 2, 4 and 8, that an LCM can take: {1: [999], 2: [999, 499], ...}.

    Args:
        scheduler_config (`dict`): of the base model.
        first (`int`): the conditioning timestep, where the first step starts.
        trained (`list[int]`, *optional*): the timesteps that a student was trained at; numbers of steps that need
            others are left out.
    """
    scheduler, choices = lcm_scheduler(scheduler_config), {1: [first]}
    for steps in (2, 4, 8):
        scheduler.set_timesteps(steps)
        later = scheduler.timesteps[1:].tolist()
        if max(later) < first and (trained is None or set(later) <= set(trained)):
            choices[steps] = [first, *later]
    return choices


def later_timesteps(scheduler_config: dict, first: int) -> list[int]:
    """The timesteps below `first` that an LCM uses in 2, 4 or 8 steps, descending."""
    used = {t for timesteps in timesteps_by_steps(scheduler_config, first).values() for t in timesteps}
    return sorted(used - {first}, reverse=True)


class LcmLora(LoraFile):
    """The content of an LCM-LoRA file, which is written back in its own layout.

    Attributes:
        rank (`int`), alpha (`float`): of all its layers.

    Args:
        source, unet_config: as in `LoraFile`.

    Raises:
        UsageError: as in `LoraFile`; or layers of different rank or alpha.
    """

    def __init__(self, source: str, unet_config: dict):
        super().__init__(source, unet_config)
        self.rank = self._one("rank", {self.rank(layer) for layer in self.layers})
        self.alpha = self._one("alpha", {scale * self.rank for scale in self.scales.values()})

    def save(self, folder: str | os.PathLike, state: Mapping[str, torch.Tensor]) -> None:
        """Write weights (under PEFT's keys) to pytorch_lora_weights.safetensors, with the keys and dtypes they had."""
        tensors = dict(self._raw)
        for key, value in state.items():
            name = self._layout[key]
            tensors[name] = value.detach().cpu().to(self._raw[name].dtype).contiguous()
        atomic_write(Path(folder) / LORA_NAME, lambda temporary: save_file(tensors, temporary, self._metadata))

    def _one(self, what, values):
        if len(values) != 1:
            raise self.error(f"has layers of different {what} ({sorted(values)[:3]}), which is not supported.")
        return values.pop()
