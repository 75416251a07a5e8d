# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Saving the weights of a student."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ModelMixin, StableDiffusionPipeline
from peft import LoraConfig
from safetensors import SafetensorError

from ..errors import RunError
from ..files import LORA_NAME, atomic_write, usual_mode
from .layout import UNET_FOLDER


def save_lora(folder: str | os.PathLike, state: Mapping[str, torch.Tensor], lora_config: LoraConfig | dict) -> None:
    """Write pytorch_lora_weights.safetensors atomically, in the format that `load_lora_weights` of diffusers reads.

    Args:
        folder (`str` or `os.PathLike`): the student's folder.
        state (`dict` of `torch.Tensor`): under PEFT's own keys (`....lora_A.weight`). In the older `.lora.down` style,
            diffusers would silently drop the attention layers when loading.
        lora_config (`peft.LoraConfig` or `dict`): rank, alpha and targets, saved in the file. Without them diffusers
            would take the rank as alpha.

    Raises:
        ValueError: `state` is empty or has other keys.
        RunError: the file cannot be written.
    """
    strange = [key for key in state if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange or not state:
        raise ValueError(f"These are no keys of a PEFT LoRA: {strange[:3]}")
    config = lora_config if isinstance(lora_config, dict) else lora_config.to_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}

    def write(temporary):
        StableDiffusionPipeline.save_lora_weights(
            temporary.parent, tensors, weight_name=temporary.name, unet_lora_adapter_metadata=config
        )

    atomic_write(Path(folder) / LORA_NAME, write)


def save_network(folder: str | os.PathLike, network: ModelMixin) -> None:
    """Write unet/ (config and safetensors) for `from_pretrained`.

    An older unet/ stays in place until the new one is complete.

    Raises:
        ValueError: the network has adapters.
        RunError: the folder cannot be written.
    """
    if getattr(network, "peft_config", None):
        raise ValueError("The network carries adapters, which cannot be loaded from unet/: merge or remove them.")
    target = Path(folder) / UNET_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{UNET_FOLDER}-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            network.save_pretrained(new)
            for file in new.iterdir():
                usual_mode(file)
            config = json.loads((new / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a local path or the base model, which this is not
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if target.exists():
                target.rename(old)
            new.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{target} cannot be written ({error}): free space on that disk, or choose another.") from error
