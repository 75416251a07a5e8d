# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A released LoRA, such as a few-step one, as the start of a role."""

import torch

from .adapter_files import fingerprint
from .lora_file import LoraFile
from .roles import Roles


class LoraStart(LoraFile):
    """A LoRA that a role starts as: exactly where its rank is at most the role's, else as near as possible.

    Args:
        source, unet_config: as in `LoraFile`.

    Raises:
        UsageError: as in `LoraFile`.
    """

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return fingerprint(self.state)

    @torch.no_grad()
    def write_into(self, roles: Roles, name: str) -> float:
        """Overwrite the weights of a role, which must adapt all of its layers.

        A layer that the file does not adapt starts as the teacher's. One of a larger rank is cut to the role's by its
        singular values (Eckart and Young, 1936).

        Returns:
            the share of the squared norm of all updates that is kept, 1 where the rank is enough.

        Raises:
            UsageError: a layer is missing in the network, or has another shape.
        """
        self.check_layers(roles.network)
        slot, config = roles.state_dict(name), roles.lora_config(name)
        rank, scale, kept, total = config["r"], config["lora_alpha"] / config["r"], 0.0, 0.0
        clear(slot)
        for layer in self.layers:
            keys = [f"{layer}.lora_{factor}.weight" for factor in "AB"]
            theirs = [self.state[key] for key in keys]
            if slot[keys[0]].is_meta:  # where only names and shapes are checked
                continue
            down, up = theirs[0].flatten(1), self.scales[layer] / scale * theirs[1].flatten(1)
            down, up, values = _cut(down, up, rank)
            kept, total = kept + values[:rank].square().sum().item(), total + values.square().sum().item()
            write_factors(slot, layer, down, up)
        return kept / total if total else 1.0


def clear(slot: dict[str, torch.Tensor]) -> None:
    """Set the weights of a role, by name, to the teacher."""
    for key, value in slot.items():
        if ".lora_B." in key and not value.is_meta:
            value.zero_()


def write_factors(slot: dict[str, torch.Tensor], layer: str, down: torch.Tensor, up: torch.Tensor) -> None:
    """Overwrite a layer of a role with factors `(r, in)` and `(out, r)` of at most its rank.

    Args:
        slot (`dict` of `torch.Tensor`): weights of the role, by name; `lora_B` of this layer is zero where nothing is
            written.
    """
    into_down, into_up = (slot[f"{layer}.lora_{factor}.weight"] for factor in "AB")
    into_down[: len(down)].copy_(down.view(-1, *into_down.shape[1:]))
    into_up.zero_()
    into_up[:, : len(down)].copy_(up.view(*up.shape, *into_up.shape[2:]))


def _cut(down, up, rank):
    """Factors `(r, in)` and `(out, r)` of at most this rank, and the singular values of their whole product."""
    of_up, of_down = torch.linalg.qr(up.double()), torch.linalg.qr(down.double().T)
    left, values, right = torch.linalg.svd(of_up.R @ of_down.R.T, full_matrices=False)
    if len(down) <= rank:
        return down, up, values
    root = values[:rank].sqrt()
    new_up, new_down = of_up.Q @ left[:, :rank] * root, root[:, None] * (right[:rank] @ of_down.Q.T)
    return new_down.float(), new_up.float(), values
