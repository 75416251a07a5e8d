# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What converting a published EDM teacher yields, and moving its tensors to the names that diffusers has."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import ModelMixin, SchedulerMixin

from ..errors import UsageError


SIGMA_RANGE = {"sigma_min": 0.002, "sigma_max": 80.0}  # of EDM's samplers (Karras et al., 2022)
HEAD = 64  # channels of an attention head of ADM
NORM_GROUPS = 32
# Parts of a residual block: in diffusers, in NVlabs' code, in OpenAI's code.
RESNET = (
    ("norm1", "norm0", "in_layers.0"),
    ("conv1", "conv0", "in_layers.2"),
    ("time_emb_proj", "affine", "emb_layers.1"),
    ("norm2", "norm1", "out_layers.0"),
    ("conv2", "conv1", "out_layers.3"),
    ("conv_shortcut", "skip", "skip_connection"),
)
NVLABS, OPENAI = 1, 2  # columns of this table


@dataclass
class Converted:
    """A teacher in diffusers' terms.

    Attributes:
        network_class (`type`), config (`dict`), state (`dict` of `torch.Tensor`): of the network.
        scheduler (`SchedulerMixin`).
        classes (`int`): 0 for an unconditional one. empty_class (`int` or `None`): the label that stands for none.
        class_names (`list[str]` or `None`).
    """

    network_class: type[ModelMixin]
    config: dict
    state: dict[str, torch.Tensor]
    scheduler: SchedulerMixin
    classes: int = 0
    empty_class: int | None = None
    class_names: list[str] | None = None


class Renaming:
    """Moves tensors to their new names; at the end none may be left."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        self.left, self.state = dict(state), {}

    def has(self, old: str) -> bool:
        """Whether a layer of this name is left."""
        return f"{old}.weight" in self.left

    def take(self, old: str, kind: str = "weight") -> torch.Tensor:
        """A tensor of a layer, float32; it is not left any more. Raises a UsageError where none can be used."""
        if f"{old}.{kind}" not in self.left:
            raise UsageError(f"has no tensor {old}.{kind}: it is of another architecture.")
        value = self.left.pop(f"{old}.{kind}")
        if not value.is_floating_point() or not value.isfinite().all():
            raise UsageError(f"has values in {old}.{kind} that are no finite numbers: download it again.")
        return value.float()

    def move(self, new: str, old: str) -> None:
        """A layer, to its new name."""
        self.state[f"{new}.weight"] = self.take(old)
        if f"{old}.bias" in self.left:
            self.state[f"{new}.bias"] = self.take(old, "bias")

    def resnet(self, new: str, old: str, column: int) -> None:
        """A residual block; `column` of `RESNET` has the names of its parts."""
        for row in RESNET:
            if row[0] != "conv_shortcut" or self.has(f"{old}.{row[column]}"):
                self.move(f"{new}.{row[0]}", f"{old}.{row[column]}")

    def attention(self, new: str, norm: str, qkv: str, out: str, interleaved: bool) -> None:
        """An attention layer.

        Theirs has one convolution for q, k and v: those of a channel are side by side (interleaved), or all of q come
        before all of k.
        """
        self.move(f"{new}.group_norm", norm)
        for kind in ("weight", "bias"):
            joined = self.take(qkv, kind).flatten(1) if kind == "weight" else self.take(qkv, kind)
            parts = joined.unflatten(0, (-1, 3)).unbind(1) if interleaved else joined.chunk(3)
            self.state |= {f"{new}.to_{name}.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            last = self.take(out, kind)
            self.state[f"{new}.to_out.0.{kind}"] = last.flatten(1) if kind == "weight" else last

    def all(self) -> dict[str, torch.Tensor]:
        """The state, once everything has been moved. Raises a UsageError where tensors are left."""
        if self.left:
            raise UsageError(f"has a tensor {min(self.left)} that is not known: it is of another architecture.")
        return {name: value.contiguous() for name, value in self.state.items()}


def adm_config(
    sample_size: int, widths: list[int], blocks: int, attention: list[bool], classes: int | None, scale_shift: bool
) -> dict:
    """The config of a `UNet2DModel` with the structure of ADM (Dhariwal and Nichol, 2021).

    Args:
        sample_size (`int`): pixels of a side.
        widths (`list[int]`): channels of each level, from the largest image.
        blocks (`int`): residual blocks of a level on the way down.
        attention (`list[bool]`): whether a level has attention.
        classes (`int` or `None`): rows of the class embedding.
        scale_shift (`bool`): whether the embedding scales and shifts, or is added.

    Raises:
        UsageError: too few channels for the groups of its norms.
    """
    if small := [width for width in widths if width % NORM_GROUPS or width < 4 * NORM_GROUPS]:
        raise UsageError(f"has {small[0]} channels: fewer than {4 * NORM_GROUPS} are not supported.")
    down = ["AttnDownBlock2D" if here else "ResnetDownsampleBlock2D" for here in attention]
    up = ["AttnUpBlock2D" if here else "ResnetUpsampleBlock2D" for here in reversed(attention)]
    return {
        "sample_size": sample_size,
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": down,
        "up_block_types": up,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": HEAD,
        "norm_num_groups": NORM_GROUPS,
        "attn_norm_num_groups": NORM_GROUPS,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "num_class_embeds": classes,
    }
