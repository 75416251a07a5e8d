# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Settings of `accelerate launch` and `accelerate config` that are not supported, read from the environment."""

import os

import torch
from accelerate.utils import str_to_bool

from .errors import UsageError


NOT_SUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
PLAIN = "--config_file train_scripts/accelerate_configs/one_gpu.yaml (or multi_gpu.yaml)"


def _flag(variable):
    try:
        return bool(str_to_bool(os.environ.get(variable) or "no"))
    except ValueError:
        raise UsageError(
            f"the environment variable {variable} is {os.environ[variable]!r}: set it to true or false, or unset it."
        ) from None


def _number(variable, default):
    value = os.environ.get(variable) or str(default)
    if not value.isascii() or not value.removeprefix("-").isdigit():
        raise UsageError(f"the environment variable {variable} is {value!r}: set it to a whole number, or unset it.")
    return int(value)


def check_launcher() -> None:
    """Refuse a launch that cannot work. Call it first: accelerate fails in other words, or runs each process alone.

    Raises:
        UsageError: a kind of parallelism that is not supported, more processes than GPUs, or an environment variable
            that cannot be read. With too many processes only the first one raises it; the others exit with code 2.
    """
    for variable, name in NOT_SUPPORTED.items():
        if _flag(variable):
            raise UsageError(
                f"accelerate is set to {name}, which is not supported: use plain data parallelism, as with "
                f"`accelerate launch {PLAIN}`, or change it with `accelerate config`."
            )
    for variable in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        _number(variable, 0)  # checks
    if _flag("ACCELERATE_USE_CPU"):
        return
    processes, there = _number("WORLD_SIZE", 1), _number("LOCAL_WORLD_SIZE", 1)
    problem = None
    if processes > 1 and not torch.accelerator.is_available():
        problem = f"{processes} processes were launched, but torch sees no CUDA GPU"
    elif torch.cuda.is_available() and there > torch.cuda.device_count():
        problem = f"{there} processes were launched, but torch sees {torch.cuda.device_count()} CUDA GPU(s) here"
    if problem:
        if _number("RANK", 0):
            raise SystemExit(2)
        raise UsageError(
            f"{problem}: launch one for each GPU with `accelerate launch --num_processes N`; without a GPU, launch "
            "one with `accelerate launch --num_processes 1 --cpu`."
        )
