# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which layers a LoRA adapts."""

from collections.abc import Iterable

import torch

from ..errors import UsageError


ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
# Every attention, feed-forward and convolution layer inside the blocks: the 14 suffixes LCM-LoRA adapts.
ALL_TARGETS = (
    *ATTENTION_TARGETS,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


def present_targets(network: torch.nn.Module, suffixes: Iterable[str]) -> list[str]:
    """Those of the suffixes (such as "to_q") that name at least one layer of this network; PEFT wants no others."""
    layers = [name for name, _ in network.named_modules()]
    return [suffix for suffix in suffixes if any(f".{name}".endswith(f".{suffix}") for name in layers)]


def with_layers(network: torch.nn.Module, targets: list[str], layers: Iterable[str]) -> list[str]:
    """The targets, and those of the layers, by their whole names, that none of the targets names.

    Raises:
        UsageError: the network has no such linear or convolution layer.
    """
    modules = dict(network.named_modules())
    missing = [layer for layer in layers if not any(f".{layer}".endswith(f".{target}") for target in targets)]
    for layer in missing:
        if not isinstance(modules.get(layer), torch.nn.Linear | torch.nn.Conv2d):
            raise UsageError(f"adapts {layer}, which is no linear or convolution layer here: it is of another base.")
    return [*targets, *missing]
