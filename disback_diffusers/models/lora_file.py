# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""LoRA files of a UNet, in any key style that diffusers reads."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_unet_state_dict_to_peft
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from ..errors import UsageError, about, one_line
from ..files import LORA_NAME
from ..hub_errors import reading
from .text_lora import TEXT_ENCODERS, text_updates


PICKLED = (".bin", ".pt", ".pth", ".ckpt")
METADATA = "lora_adapter_metadata"  # where diffusers keeps the LoraConfig


def refuse_dora(keys: Iterable[str]) -> None:
    """Raise a UsageError where the keys of a LoRA file hold DoRA scales, which diffusers drops with a warning."""
    scales = [key for key in keys if "dora_scale" in key or "lora_magnitude_vector" in key]
    if scales:
        raise UsageError(
            f"is a DoRA: it has {len(scales)} scales such as {scales[0]}, which diffusers cannot load. Merge it into "
            "its base, or take a plain LoRA."
        )


class LoraFile:
    """The content of a LoRA file.

    Attributes:
        layers (`list[str]`): names of the UNet's layers that it adapts.
        state (`dict` of `torch.Tensor`): its weights, float32, under PEFT's keys.
        file (`Path`): where it is on this machine.
        scales (`dict[str, float]`): by layer, what the product of its factors is multiplied by.
        text (`dict`): its updates of text encoders, as `text_updates` returns them.

    Args:
        source (`str`): a .safetensors file, a folder with pytorch_lora_weights.safetensors, a Hub id, or a Hub id
            and a file of it, such as "owner/name/file.safetensors".
        unet_config (`dict`): of the base's UNet.
        may_adapt_text (`bool`, *optional*, defaults to `False`): whether it may adapt text encoders too.

    Raises:
        UsageError: no such file, no LoRA of a UNet, or unknown keys.
    """

    def __init__(self, source: str, unet_config: dict, may_adapt_text: bool = False):
        self.source, self.may_adapt_text, self.text = source, may_adapt_text, {}
        self.file = self._find()
        self._raw, self._metadata = self._read(self.file)
        state, alphas = self._convert(unet_config)
        file_key = {id(tensor): key for key, tensor in self._raw.items()}
        self._layout = {key: file_key.get(id(value)) for key, value in state.items()}
        self.layers = sorted(key.removesuffix(".lora_A.weight") for key in state if "lora_A" in key)
        self.state = {key: value.float() for key, value in state.items()}
        self.scales = dict(self._scales(alphas))

    def rank(self, layer: str) -> int:
        """Of the update of a layer."""
        return self.state[f"{layer}.lora_A.weight"].shape[0]

    def check_layers(self, unet: torch.nn.Module) -> None:
        """Raise a UsageError where the UNet lacks one of the layers, or has one of another shape."""
        modules = dict(unet.named_modules())
        for layer in self.layers:
            if layer not in modules:
                raise self.error(f"adapts {layer}, which the teacher's UNet does not have: it is of another base.")
            down, up = (self.state[f"{layer}.lora_{factor}.weight"].shape for factor in "AB")
            weight = getattr(modules[layer], "weight", None)
            if weight is None or (up[0], *down[1:]) != tuple(weight.shape):
                raise self.error(f"has {layer} of another shape than the teacher's UNet: it is of another base.")

    @torch.no_grad()
    def fuse_into(self, unet: torch.nn.Module, strength: float = 1.0) -> None:
        """Add the updates, times `strength`, to the weights of a UNet without adapters.

        Raises:
            UsageError: as `check_layers`.
        """
        self.check_layers(unet)
        modules = dict(unet.named_modules())
        for layer in self.layers:
            weight = modules[layer].weight
            down, up = (self.state[f"{layer}.lora_{factor}.weight"].flatten(1) for factor in "AB")
            update = (strength * self.scales[layer] * (up @ down)).view(weight.shape)
            weight.copy_(weight.float() + update.to(weight.device))

    # -----------------------------------------------------------------------------------------------------------------

    def error(self, message: str) -> UsageError:
        """A UsageError about this file; the message has no subject."""
        return UsageError(f"{self.source} {message}")

    def _find(self):
        path = Path(self.source)
        if path.suffix.lower() in PICKLED:
            raise self.error("is a pickled file, which may run code when it is loaded: take a .safetensors file.")
        if path.is_dir():
            if not (path / LORA_NAME).exists() and any(path.glob("pytorch_lora_weights.*")):
                raise self.error(f"has pickled weights, which may run code when they are loaded, but no {LORA_NAME}.")
            path = path / LORA_NAME
        if path.is_file():
            return path
        repo, file = (None, None) if Path(self.source).is_dir() else self._on_hub()
        if repo is None:
            raise self.error(f"is no LoRA file and no folder with {LORA_NAME}.")
        try:
            with reading(repo):
                return Path(hf_hub_download(repo, file))
        except EntryNotFoundError:
            raise self.error(f"has no {file}: give the file itself, or a folder with it.") from None

    def _on_hub(self):
        """The repository and the file in it; None where it can only be a local path."""
        if self.source.startswith((".", "/", "~")):
            return None, None
        owner, _, rest = self.source.partition("/")
        name, _, file = rest.partition("/")
        if not file:
            return (None, None) if self.source.endswith(".safetensors") else (self.source, LORA_NAME)
        return (f"{owner}/{name}", file) if file.endswith(".safetensors") else (None, None)

    def _read(self, file):
        try:
            with safe_open(os.fspath(file), "pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()
        except Exception as error:  # truncated, or no safetensors at all
            raise self.error(f"is no readable safetensors file ({error}).") from None

    def _convert(self, unet_config):
        """Weights under PEFT's keys, which are the file's own tensors still, and alphas by layer."""
        try:
            refuse_dora(self._raw)
        except UsageError as error:
            raise self.error(str(error)) from None
        try:
            state, alphas = StableDiffusionPipeline.lora_state_dict(dict(self._raw), unet_config=unet_config)
        except Exception as error:  # keys that diffusers cannot place
            raise self.error(f"is no LoRA that diffusers knows: {one_line(error)}") from None
        strange = [key for key in state if not key.startswith("unet.")]
        if self.may_adapt_text:
            with about(self.source):
                self.text = text_updates(state, alphas or {}, self._config)
            strange = [key for key in strange if not key.startswith(TEXT_ENCODERS)]
            state = {key: value for key, value in state.items() if not key.startswith(TEXT_ENCODERS)}
        if strange or not state:
            more = " (and its text encoders)" if self.may_adapt_text else " only"
            held = strange[0] if strange else "no UNet layers" if self.text else "nothing"
            raise self.error(f"holds {held}: it must hold weights of a UNet{more}.")
        state = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in state.items()})
        strange = [key for key in state if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
        if strange:
            raise self.error(f"has an unknown key, {strange[0]}.")
        return state, alphas or {}

    @property
    def _config(self):
        """The LoraConfig of all its parts."""
        return json.loads((self._metadata or {}).get(METADATA, "{}"))

    def _scales(self, alphas) -> Iterator[tuple[str, float]]:
        config = {key.removeprefix("unet."): value for key, value in self._config.items()}
        of_unet = {key: value for key, value in alphas.items() if not key.startswith(TEXT_ENCODERS)}
        by_layer = {_layer(key): float(value) for key, value in of_unet.items()}
        for layer in self.layers:
            rank = self.rank(layer)
            of_metadata = config.get("alpha_pattern", {}).get(layer, config.get("lora_alpha", rank))
            alpha = by_layer.get(layer, of_metadata)
            yield layer, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _layer(key):
    """The layer of an alpha, which diffusers names after the layer, or in attention after an old key of a factor."""
    name = key.removeprefix("unet.").removesuffix(".alpha")
    if not name.endswith(".weight"):
        return name
    (name,) = convert_unet_state_dict_to_peft({name: None})
    return name.rpartition(".lora_")[0]
