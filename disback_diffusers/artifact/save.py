# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Writing the weights of a student."""

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
    """Write pytorch_lora_weights.safetensors, atomically, as `load_lora_weights` of plain diffusers reads it.

    Args:
        folder (`str` or `os.PathLike`): the artifact's folder.
        state (`dict` of `torch.Tensor`): with PEFT's own keys (`....lora_A.weight`). Converted to the older
            `.lora.down` style, the attention part would be dropped at loading without a word.
        lora_config (`peft.LoraConfig` or `dict`): rank, alpha and targets, kept in the file; without it alpha would
            be taken to equal the rank.

    Raises:
        RunError: it cannot be written.
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
    """Write unet/ (config and safetensors), as `from_pretrained` reads it.

    An older unet/ stays in place until the new one is complete.

    Raises:
        RunError: it cannot be written.
    """
    if getattr(network, "peft_config", None):
        raise ValueError("The network carries adapters: as they are, nobody could load them from unet/.")
    target = Path(folder) / UNET_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{UNET_FOLDER}-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            network.save_pretrained(new)
            for file in new.iterdir():
                usual_mode(file)
            config = json.loads((new / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a path of this machine, or the base: this is neither
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if target.exists():
                target.rename(old)
            new.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{target} cannot be written ({error}): free space on that disk, or choose another.") from error
