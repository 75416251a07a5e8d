#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What it costs to switch the role of a UNet: `Roles` against `set_adapter` of diffusers and PEFT.

    python benchmarks/switching.py --output benchmarks/results/switching.json

The UNets have the real shapes of SDXL and SD 1.5 but no weights (meta device): switching is Python at work on the
layers, so neither a GPU nor much memory is needed. Times are CPU times, which other programs do not disturb. A switch
goes to another role each time; the teacher has its adapters off.
"""

import argparse
import json
import platform
import statistics
import time

import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel

from disback_diffusers.files import user_path
from disback_diffusers.models.lora_targets import ALL_TARGETS, ATTENTION_TARGETS
from disback_diffusers.models.roles import Roles


BAR_MS = 1.0  # for SDXL with all targets
ROLES = ("student", "target", "fake")
SD15 = {"sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
CASES = {
    "SDXL, all": (SDXL, ALL_TARGETS),
    "SDXL, attention": (SDXL, ATTENTION_TARGETS),
    "SD 1.5, all": (SD15, ALL_TARGETS),
    "SD 1.5, attention": (SD15, ATTENTION_TARGETS),
}


def milliseconds(call, repeats):
    """Median over `repeats` of the CPU time of one call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def measure(config, targets, rank=64, repeats=10):
    """Costs (ms a switch) on a UNet of this config with three roles."""
    with torch.device("meta"):
        roles = Roles(UNet2DConditionModel(**config))
    start = time.process_time()
    for name in ROLES:
        roles.add(name, rank=rank, alpha=rank, targets=targets)
    added = time.process_time() - start

    roles.network._hf_peft_config_loaded = True  # so that diffusers' own methods know of the adapters

    def round_trip(switch, *choices):
        return milliseconds(lambda: [switch(choice) for choice in choices], repeats) / len(choices)

    return {
        "layers": len(roles.parameters("fake")) // 2,
        "million_parameters_a_role": round(sum(p.numel() for p in roles.parameters("fake")) / 1e6, 1),
        "add_s": round(added / len(ROLES), 2),
        "roles_ms": round(round_trip(roles.use, *ROLES), 3),
        "roles_teacher_ms": round(round_trip(lambda names: roles.use(*names), (), ("fake",)), 3),
        "set_adapter_ms": round(round_trip(roles.network.set_adapter, *ROLES), 1),
        "disable_enable_adapters_ms": round(
            round_trip(lambda call: call(), roles.network.disable_adapters, roles.network.enable_adapters), 1
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=user_path, help="also write the numbers to this JSON file")
    args = parser.parse_args()
    results = {}
    for case, (config, targets) in CASES.items():
        results[case] = measure(config, targets)
        if len(results) == 1:
            print("| case | " + " | ".join(results[case]) + " |\n|---" + "|---" * len(results[case]) + "|")
        print(f"| {case} | " + " | ".join(str(value) for value in results[case].values()) + " |", flush=True)
    cost = results["SDXL, all"]["roles_ms"]
    print(f"SDXL, all targets: {cost} ms a switch, {'within' if cost <= BAR_MS else 'ABOVE'} the bar of {BAR_MS} ms")
    if args.output:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "peft": peft.__version__,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"bar_ms": BAR_MS, "results": results, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
