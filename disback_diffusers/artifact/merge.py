# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Merges a LoRA student into the weights of its base network, for pipelines that cannot hold LoRAs."""

import json
import os

import torch
from diffusers.utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from ..errors import UsageError
from ..models.adapter_files import CONFIG_KEY


PREFIX = "unet."  # of all keys, in the file that `save_lora` writes


def read_lora(file: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a student's LoRA and the settings of its `LoraConfig`, both without the prefix.

    Raises:
        UsageError: the file does not say which layers it adapts.
    """
    with safe_open(file, framework="pt") as opened:
        settings = json.loads((opened.metadata() or {}).get(CONFIG_KEY, "{}"))
        state = {key.removeprefix(PREFIX): opened.get_tensor(key) for key in opened.keys()}
    config = {key.removeprefix(PREFIX): value for key, value in settings.items()}
    if not {"r", "lora_alpha", "target_modules"} <= config.keys():
        raise UsageError("does not say its rank, alpha and layers: it was not written by disback-diffusers.")
    return state, config


def merge_lora(network: torch.nn.Module, state: dict[str, torch.Tensor], config: dict) -> None:
    """Add a LoRA to the weights of a network, in place.

    Args:
        state, config: as `read_lora` returns them.

    Raises:
        UsageError: a tensor has no place in the network, or is missing.
    """
    name = "student"
    settings = {key: config[key] for key in ("r", "lora_alpha", "target_modules")}
    inject_adapter_in_model(LoraConfig(**settings), network, name)
    wanted = {key.replace(f".{name}.", ".") for key in network.state_dict() if f".{name}." in key}
    if difference := wanted ^ state.keys():
        raise UsageError(f"does not fit the base model: {min(difference)} is in one of them only.")
    set_peft_model_state_dict(network, state, name)
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    recurse_remove_peft_layers(network)
