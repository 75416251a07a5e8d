# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Adapter files: safetensors with PEFT's keys, the LoraConfig where diffusers looks for it, and the base's mark."""

import hashlib
import json
import os
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import UsageError
from ..files import atomic_write


FINGERPRINT_KEY = "base_fingerprint"
CONFIG_KEY = "lora_adapter_metadata"
SAMPLES_PER_TENSOR = 64


def base_fingerprint(network: torch.nn.Module) -> str:
    """SHA-256 (hex) of the names, the shapes and up to 64 evenly spaced values of every tensor of the base.

    Adapters, attached or not, have no part in it. The values are rounded to bfloat16: a float32 and a bfloat16 copy of
    one base agree, and so does a float16 copy where the weights were published in float16. Where they were published
    in float32 it does not, as its values have been rounded once before.
    """
    base = {k.replace(".base_layer.", "."): v for k, v in network.state_dict().items() if ".lora_" not in k}
    return fingerprint(base)


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of named tensors, as in `base_fingerprint`."""
    digest, samples = hashlib.sha256(), []
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        count = min(SAMPLES_PER_TENSOR, value.numel())
        at = torch.arange(count, device=value.device) * value.numel() // count
        samples.append(value.take(at).to(torch.bfloat16))
    gathered = torch.cat([sample.to(samples[0].device) for sample in samples])
    digest.update(gathered.cpu().view(torch.uint8).numpy().tobytes())  # the only wait for the GPU
    return digest.hexdigest()


def write_adapter(
    file: str | os.PathLike,
    state: Mapping[str, torch.Tensor],
    config: dict,
    fingerprint: str,
    metadata: Mapping[str, str],
) -> None:
    """Write tensors, LoraConfig (JSON values), fingerprint and the caller's metadata; RunError where it cannot be."""
    own = {"format": "pt", FINGERPRINT_KEY: fingerprint, CONFIG_KEY: json.dumps(config, sort_keys=True)}
    if taken := own.keys() & metadata.keys():
        raise ValueError(f"The metadata keys {sorted(taken)} are reserved.")
    state = {key: value.cpu().contiguous() for key, value in state.items()}
    atomic_write(file, lambda path: save_file(state, path, {**metadata, **own}))


def read_adapter(file: str | os.PathLike, fingerprint: str) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and the LoraConfig of a file written by `write_adapter`.

    Raises:
        UsageError: The file is unreadable, not of this kind, or was recorded on a base of another fingerprint.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata, state = opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{file} cannot be read as a safetensors file ({error}): check the path, or delete what is damaged."
        ) from error
    recorded = metadata.get(FINGERPRINT_KEY)
    if recorded is None:
        raise UsageError(f"{file} has no {FINGERPRINT_KEY} in its metadata: it was not written by disback-diffusers.")
    if recorded != fingerprint:
        raise UsageError(
            f"{file} was recorded on another base: its {FINGERPRINT_KEY} is {recorded[:12]}..., this network's is "
            f"{fingerprint[:12]}... Load the teacher, in the precision, that the file was recorded with."
        )
    try:
        return state, dict(json.loads(metadata[CONFIG_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file} has no valid {CONFIG_KEY} in its metadata ({error!r}): write it anew.") from error


def config_difference(config: dict, slot: dict) -> str | None:
    """The first setting in which a LoraConfig scales or shapes its update otherwise than the slot's."""
    for name, key in (("lora_rank", "r"), ("lora_alpha", "lora_alpha")):
        if config.get(key) != slot[key]:
            return f"it has {name} {config.get(key)}, the role {slot[key]}: set the same"
    return None


def tensor_difference(state: Mapping[str, torch.Tensor], slot: Mapping[str, torch.Tensor]) -> str | None:
    """The first tensor, by name, that is missing, too many, of another shape, or not all finite numbers."""
    for key in sorted({*slot, *state}):
        if key not in state:
            return f"it lacks the tensor {key} (see lora_target_modules)"
        if key not in slot:
            return f"it has a tensor {key}, the role has none (see lora_target_modules)"
        if state[key].shape != slot[key].shape:
            return f"its {key} has the shape {tuple(state[key].shape)}, the role's {tuple(slot[key].shape)}"
        if not state[key].is_floating_point() or not state[key].to(torch.float32).isfinite().all():
            return f"its {key} holds something else than finite numbers"
    return None
