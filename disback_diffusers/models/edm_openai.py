# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The EDM teachers of OpenAI's consistency models: ADM UNets, as state dicts."""

from pathlib import Path

from diffusers import CMStochasticIterativeScheduler, UNet2DModel

from ..errors import UsageError
from .edm_pickles import read_state_dict
from .edm_renaming import OPENAI, SIGMA_RANGE, Converted, Renaming, adm_config


ATTENTION_FROM = 32  # pixels of a side: their teachers have attention at 32, 16 and 8
ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("class_embedding", "label_emb"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)


def of_openai(file: Path) -> Converted:
    """A teacher from a state dict of the consistency models (.pt). Raises a UsageError where it is something else."""
    try:
        names = Renaming(read_state_dict(file))
        network_class, config = _openai(names)
        scheduler = CMStochasticIterativeScheduler(**SIGMA_RANGE, sigma_data=0.5)
        return Converted(network_class, config, names.all(), scheduler, config["num_class_embeds"] or 0)
    except UsageError as error:
        raise error if str(error).startswith(str(file)) else UsageError(f"{file} {error}") from None
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{file} is no UNet of ADM, of another architecture: {error!r}.") from None


def _openai(names):
    """Their files have no settings: these are read off the tensors."""
    blocks, count = _count_blocks(names)
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(count)]  # of each level
    if not all(names.has(f"{first}.0.in_layers.2") for first in firsts):
        raise UsageError("has no blocks as a UNet of ADM has them: it is of another architecture.")
    widths = [len(names.left[f"{first}.0.in_layers.2.weight"]) for first in firsts]
    attention = [names.has(f"{first}.1.qkv") for first in firsts]
    sample_size = ATTENTION_FROM << (attention.index(True) if any(attention) else 0)
    scale_shift = len(names.left[f"{firsts[0]}.0.emb_layers.1.weight"]) == 2 * widths[0]
    classes = len(names.left["label_emb.weight"]) if names.has("label_emb") else None
    config = adm_config(sample_size, widths, blocks, attention, classes, scale_shift)
    for new, old in ENDS:
        if new != "class_embedding" or classes:
            names.move(new, old)
    _move_openai_blocks(names, count, blocks)
    return UNet2DModel, config


def _count_blocks(names):
    """Residual blocks of a level on the way down, and levels. The last block of a level on the way up has one more."""
    numbers = {int(name.split(".")[1]) for name in names.left if name.startswith("output_blocks.")}
    ups = [k for k in sorted(numbers) if any(names.has(f"output_blocks.{k}.{i}.in_layers.2") for i in (1, OPENAI))]
    if not numbers:
        raise UsageError(
            "has no output_blocks, so it is no UNet of ADM: give an edm_*_ema.pt of the consistency models."
        )
    blocks = ups[0] if ups else len(numbers) - 1
    return blocks, len(numbers) // (blocks + 1)


def _move_openai_blocks(names, levels, blocks):
    def block(old, where, i, kind="resnets"):
        names.resnet(f"{where}.{kind}.{i}", f"{old}.0", OPENAI)
        if kind == "resnets" and names.has(f"{old}.1.qkv"):
            parts = f"{old}.1.norm", f"{old}.1.qkv", f"{old}.1.proj_out"
            names.attention(f"{where}.attentions.{i}", *parts, interleaved=False)

    for level in range(levels):
        first = 1 + level * (blocks + 1)
        for i in range(blocks):
            block(f"input_blocks.{first + i}", f"down_blocks.{level}", i)
        if level < levels - 1:
            block(f"input_blocks.{first + blocks}", f"down_blocks.{level}", 0, "downsamplers")
    names.resnet("mid_block.resnets.0", "middle_block.0", OPENAI)
    parts = "middle_block.1.norm", "middle_block.1.qkv", "middle_block.1.proj_out"
    names.attention("mid_block.attentions.0", *parts, interleaved=False)
    names.resnet("mid_block.resnets.1", "middle_block.2", OPENAI)
    for number in range(levels):
        for i in range(blocks + 1):
            old = f"output_blocks.{number * (blocks + 1) + i}"
            block(old, f"up_blocks.{number}", i)
            if i == blocks and number < levels - 1:
                up = f"{old}.2" if names.has(f"{old}.2.in_layers.2") else f"{old}.1"
                names.resnet(f"up_blocks.{number}.upsamplers.0", up, OPENAI)
