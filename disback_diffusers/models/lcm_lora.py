# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LCM-LoRA files: read in any key style, and written in the same layout."""

import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from diffusers.utils import convert_unet_state_dict_to_peft
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import UsageError, one_line
from ..files import LORA_NAME, atomic_write
from ..hub_errors import reading


PICKLED = (".bin", ".pt", ".pth", ".ckpt")


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


def refuse_dora(keys: Iterable[str]) -> None:
    """Raise a UsageError where the keys of a LoRA file hold DoRA scales, which diffusers drops with a warning."""
    scales = [key for key in keys if "dora_scale" in key or "lora_magnitude_vector" in key]
    if scales:
        raise UsageError(
            f"is a DoRA: it has {len(scales)} scales such as {scales[0]}, which diffusers cannot load. Merge it into "
            "its base, or take a plain LoRA."
        )


class LcmLora:
    """The content of an LCM-LoRA file.

    Attributes:
        rank (`int`), alpha (`float`): of all its layers.
        layers (`list[str]`): names of the UNet's layers that it adapts.
        state (`dict` of `torch.Tensor`): its weights, float32, under PEFT's keys.

    Args:
        source (`str`): a .safetensors file, a folder with pytorch_lora_weights.safetensors, or a Hub id.
        unet_config (`dict`): of the base's UNet.

    Raises:
        UsageError: no such file, no LoRA of a UNet, unknown keys, or layers of different rank or alpha.
    """

    def __init__(self, source: str, unet_config: dict):
        self.source = source
        self._raw, self._metadata = self._read(self._find())
        self.state, alphas = self._convert(unet_config)
        self._file_key = {id(tensor): key for key, tensor in self._raw.items()}
        self.layers = sorted(key.removesuffix(".lora_A.weight") for key in self.state if "lora_A" in key)
        self.rank = self._one("rank", {value.shape[0] for key, value in self.state.items() if "lora_A" in key})
        self.alpha = self._one("alpha", {float(alpha) for alpha in alphas} or {float(self.rank)})
        self._layout = {key: self._file_key[id(value)] for key, value in self.state.items()}
        self.state = {key: value.float() for key, value in self.state.items()}

    def check_layers(self, unet: torch.nn.Module) -> None:
        """Raise a UsageError where the UNet lacks one of the layers."""
        missing = set(self.layers) - {name for name, _ in unet.named_modules()}
        if missing:
            raise self._error(f"adapts {min(missing)}, which the teacher's UNet does not have: it is of another base.")

    def save(self, folder: str | os.PathLike, state: Mapping[str, torch.Tensor]) -> None:
        """Write weights (under PEFT's keys) to pytorch_lora_weights.safetensors, with the keys and dtypes they had."""
        tensors = dict(self._raw)
        for key, value in state.items():
            name = self._layout[key]
            tensors[name] = value.detach().cpu().to(self._raw[name].dtype).contiguous()
        atomic_write(Path(folder) / LORA_NAME, lambda temporary: save_file(tensors, temporary, self._metadata))

    # -----------------------------------------------------------------------------------------------------------------

    def _error(self, message):
        return UsageError(f"{self.source} {message}")

    def _find(self):
        path = Path(self.source)
        if path.suffix.lower() in PICKLED:
            raise self._error("is a pickled file, which may run code when it is loaded: take a .safetensors file.")
        if path.is_dir():
            if not (path / LORA_NAME).exists() and any(path.glob("pytorch_lora_weights.*")):
                raise self._error(f"has pickled weights, which may run code when they are loaded, but no {LORA_NAME}.")
            path = path / LORA_NAME
        if path.is_file():
            return path
        if path.suffix == ".safetensors" or path.is_dir() or self.source.startswith((".", "/", "~")):
            raise self._error(f"is no LoRA file and no folder with {LORA_NAME}.")
        try:
            with reading(self.source):
                return hf_hub_download(self.source, LORA_NAME)
        except EntryNotFoundError:
            raise self._error(f"has no {LORA_NAME}: give the file itself, or a folder with it.") from None

    def _read(self, file):
        try:
            with safe_open(os.fspath(file), "pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
        except Exception as error:  # truncated, or no safetensors at all
            raise self._error(f"is no readable safetensors file ({error}).") from None

    def _convert(self, unet_config):
        """Weights under PEFT's keys, which are the file's own tensors still, and alphas."""
        try:
            refuse_dora(self._raw)
        except UsageError as error:
            raise self._error(str(error)) from None
        try:
            state, alphas = StableDiffusionPipeline.lora_state_dict(dict(self._raw), unet_config=unet_config)
        except Exception as error:  # keys that diffusers cannot place
            raise self._error(f"is no LoRA that diffusers knows: {one_line(error)}") from None
        strange = [key for key in state if not key.startswith("unet.")]
        if strange or not state:
            raise self._error(f"holds {strange[0] if strange else 'nothing'}, an LCM-LoRA has weights of a UNet only.")
        state = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in state.items()})
        strange = [key for key in state if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
        if strange:
            raise self._error(f"has an unknown key, {strange[0]}.")
        return state, list((alphas or {}).values()) or self._alphas_of_metadata()

    def _alphas_of_metadata(self):
        config = json.loads((self._metadata or {}).get("lora_adapter_metadata", "{}"))
        return [config["unet.lora_alpha"]] if "unet.lora_alpha" in config else []

    def _one(self, what, values):
        if len(values) != 1:
            raise self._error(f"has layers of different {what} ({sorted(values)[:3]}), which is not supported.")
        return values.pop()
