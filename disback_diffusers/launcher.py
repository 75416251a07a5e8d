# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Settings of `accelerate launch` and `accelerate config` that are not supported, read from the environment."""

import os

import torch

from .errors import UsageError


NOT_SUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
PLAIN = "--config_file train_scripts/accelerate_configs/one_gpu.yaml (or multi_gpu.yaml)"


def check_launcher() -> None:
    """Refuse a launch that cannot work. Call it first: accelerate fails in other words, or runs each process alone.

    Raises:
        UsageError: a kind of parallelism that is not supported, or more processes than GPUs. Of several processes that
            were launched in vain only the first one says so; the others end with code 2.
    """
    for variable, name in NOT_SUPPORTED.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
            raise UsageError(
                f"accelerate is set to {name}, which is not supported: use plain data parallelism, as with "
                f"`accelerate launch {PLAIN}`, or change it with `accelerate config`."
            )
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return
    processes, there = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    problem = None
    if processes > 1 and not torch.accelerator.is_available():
        problem = f"{processes} processes were launched, but torch sees no CUDA GPU"
    elif torch.cuda.is_available() and there > torch.cuda.device_count():
        problem = f"{there} processes were launched, but torch sees {torch.cuda.device_count()} CUDA GPU(s) here"
    if problem:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)
        raise UsageError(
            f"{problem}: launch one for each GPU with `accelerate launch --num_processes N`, or add --cpu to it."
        )
