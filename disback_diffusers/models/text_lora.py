# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The part of a LoRA file that adapts text encoders, as many style LoRAs do.

diffusers leaves attention layers out, without an error, where one of kohya's files has no `out_proj`. So this part is
read and added to the weights here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from ..errors import UsageError


TEXT_ENCODERS = ("text_encoder.", "text_encoder_2.")  # how the keys of their layers begin
# How diffusers' older key styles name a layer, and its name.
OLDER_NAMES = {".to_q_lora": ".q_proj", ".to_k_lora": ".k_proj", ".to_v_lora": ".v_proj", ".to_out_lora": ".out_proj",
               ".lora_linear_layer": "", ".lora": ""}  # fmt: skip
FACTORS = {"down": "down", "lora_A": "down", "up": "up", "lora_B": "up"}


@dataclass
class Update:
    """Of a layer: `scale` times the product of up `(out, r)` and down `(r, in)`; a factor that is missing is None."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None
    rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / r, 1 without an alpha; with `rslora` alpha / sqrt(r)."""
        rank = len(self.down)
        return (rank if self.alpha is None else self.alpha) / (rank**0.5 if self.rslora else rank)


def text_updates(
    state: Mapping[str, torch.Tensor], alphas: Mapping[str, float], config: Mapping
) -> dict[str, dict[str, Update]]:
    """Updates of layers by the name of their text encoder.

    Args:
        state (`dict` of `torch.Tensor`), alphas (`dict`): as `lora_state_dict` of diffusers returns them; keys of
            other parts are left out.
        config (`dict`): the LoraConfig in the file's metadata, its keys with the name of the encoder before them.

    Raises:
        UsageError: an unknown key; the message has no subject.
    """
    found = {}
    for key, value in state.items():
        if key.startswith(TEXT_ENCODERS):
            encoder, layer, factor = _read_key(key)
            own = {name.removeprefix(f"{encoder}."): given for name, given in config.items()}
            alpha = own.get("alpha_pattern", {}).get(layer, own.get("lora_alpha"))
            update = found.setdefault(encoder, {}).setdefault(layer, Update(None, None, alpha, own.get("use_rslora")))
            setattr(update, factor, value.float())
    for key, alpha in alphas.items():
        if key.startswith(TEXT_ENCODERS):
            encoder, layer, _ = _read_key(key.removesuffix(".alpha"))
            found[encoder][layer].alpha = float(alpha)
    return found


def _read_key(key):
    """Text encoder, layer and factor of the key of a weight."""
    encoder, _, name = key.removesuffix(".weight").partition(".")
    layer, _, factor = name.rpartition(".")
    if factor not in FACTORS:
        raise UsageError(f"has an unknown key, {key}.")
    old = next((old for old in OLDER_NAMES if layer.endswith(old)), "")
    return encoder, layer.removesuffix(old) + OLDER_NAMES.get(old, ""), FACTORS[factor]


@torch.no_grad()
def fuse_into_text_encoders(
    pipeline: DiffusionPipeline, updates: Mapping[str, Mapping[str, Update]], strength: float = 1.0
) -> None:
    """Add updates, times `strength`, to the text encoders of a pipeline. Encoders that are None are left out.

    Args:
        pipeline (`DiffusionPipeline`): without adapters; it may lack the UNet.
        updates (`dict`): from `text_updates`.

    Raises:
        UsageError: one does not fit; the message has no subject.
    """
    for name, of_layers in updates.items():
        encoder = getattr(pipeline, name, None)
        modules = dict(encoder.named_modules()) if encoder is not None else {}
        for layer, update in of_layers.items() if modules else ():
            short = layer.removeprefix("text_model.")  # transformers had this module up to version 4
            weight = getattr(modules.get(layer, modules.get(short)), "weight", None)
            complete = update.down is not None and update.up is not None
            if weight is None or not complete or (len(update.up), update.down.shape[-1]) != tuple(weight.shape):
                raise UsageError(f"does not fit the {name}: {layer} is not there, or of another shape.")
            weight.copy_(weight.float() + (strength * update.scale * update.up @ update.down).to(weight.device))
