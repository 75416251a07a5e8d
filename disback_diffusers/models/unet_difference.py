# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The difference between another UNet and the teacher's as the start of a LoRA, such as a released few-step UNet."""

import torch

from .adapter_files import base_fingerprint
from .families.base import Family
from .lora_start import write_factors
from .roles import Roles
from .student_unet import StudentUNet


OVERSAMPLING, ITERATIONS = 16, 4  # of the randomised SVD (Halko et al., 2011)


class UNetDifference:
    """A UNet that a role starts as, as near as its rank and its layers allow.

    Args:
        other (`StudentUNet`): the UNet. family (`Family`): the teacher.

    Attributes:
        layers (`list[str]`): names of layers that a role must adapt for it: none, as it takes those that are there.

    Raises:
        UsageError: it has other layers than the teacher's, or layers of other shapes.
    """

    layers: tuple[str, ...] = ()

    def __init__(self, other: StudentUNet, family: Family):
        self.other, self.family, self.fingerprint = other, family, None
        with torch.device("meta"):
            ours, theirs = (_shapes(family.build_network(config)) for config in (None, other.config))
        if ours != theirs:
            name = min(ours.items() ^ theirs.items())[0]
            raise other.error(
                f"has other layers than the teacher's UNet, as {name}: a LoRA cannot start as it, a full student can."
            )

    @torch.no_grad()
    def write_into(self, roles: Roles, name: str) -> float:
        """Overwrite the weights of a role. Both UNets are loaded for it, in float32, on the CPU.

        Returns:
            the share of the squared norm of the difference that is kept. What no layer of the role can hold, such as
            norms, is lost too.

        Raises:
            UsageError: its weights cannot be loaded.
        """
        slot, config = roles.state_dict(name), roles.lora_config(name)
        if any(value.is_meta for value in slot.values()):  # where only names and shapes are checked
            return 1.0
        other = self.other.load()
        self.fingerprint = base_fingerprint(other)
        differences = other.state_dict()
        for key, value in self.family.load_network().state_dict().items():
            differences[key].sub_(value)  # in place: for SDXL each of the two has 10 GiB
        rank, scale, kept = config["r"], config["lora_alpha"] / config["r"], 0.0
        for layer in (key.removesuffix(".lora_A.weight") for key in slot if key.endswith(".lora_A.weight")):
            down, up, values = _low_rank(differences[f"{layer}.weight"].flatten(1), rank)
            write_factors(slot, layer, down, up / scale)
            kept += values.square().sum().item()
        total = sum(value.square().sum().item() for value in differences.values())
        return kept / total if total else 1.0


def _shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _low_rank(matrix, rank):
    """Factors `(r, in)` and `(out, r)` of the nearest matrix of at most this rank, and its singular values."""
    most = min(rank + OVERSAMPLING, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix, most, ITERATIONS)
    left, values, right = left[:, :rank], values[:rank], right[:, :rank]
    return values.sqrt()[:, None] * right.T, left * values.sqrt(), values
