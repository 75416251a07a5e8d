# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The teachers of NVlabs' EDM: DDPM++ and NCSN++ (`SongUNet`), and ADM (`DhariwalUNet`)."""

import math
from pathlib import Path

import torch
from diffusers import EDMEulerScheduler, UNet2DModel

from ..errors import UsageError
from .edm_pickles import Recorded, read_pickle
from .edm_renaming import NVLABS, SIGMA_RANGE, Converted, Renaming, adm_config
from .edm_unet import EDMUNet2DModel


DEFAULTS = {
    "SongUNet": {
        "model_channels": 128, "channel_mult": [1, 2, 2, 2], "channel_mult_emb": 4, "num_blocks": 4,
        "attn_resolutions": [16], "dropout": 0.1, "label_dropout": 0, "embedding_type": "positional",
        "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard", "resample_filter": [1, 1],
    },
    "DhariwalUNet": {
        "model_channels": 192, "channel_mult": [1, 2, 3, 4], "channel_mult_emb": 4, "num_blocks": 3,
        "attn_resolutions": [32, 16, 8], "dropout": 0.1, "label_dropout": 0,
    },
}  # fmt: skip
SHARED = ("img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim")  # the first arguments of both
FILTER_NAMES = {(1, 1): "box", (1, 3, 3, 1): "fir"}


def of_nvlabs(file: Path) -> Converted:
    """A teacher from a snapshot of EDM (.pkl). Raises a UsageError where it is damaged or something else."""
    data = read_pickle(file)
    net = data.get("ema") if isinstance(data, dict) else None
    if not isinstance(net, Recorded):
        raise UsageError(f"{file} holds no network under 'ema': it is not an EDM snapshot.")
    try:
        return _of_precond(net)
    except UsageError as error:
        raise UsageError(f"{file} {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{file} is no teacher of EDM: {error!r}.") from None


def _of_precond(net):
    if net.class_name != "EDMPrecond":
        raise UsageError(f"is a {net.class_name}: only EDM's own preconditioning (EDMPrecond) can be converted.")
    model = net.state["_modules"]["model"]
    if model.class_name not in DEFAULTS:
        raise UsageError(f"has a {model.class_name}: only {' and '.join(DEFAULTS)} can be converted.")
    given = DEFAULTS[model.class_name]
    positional = dict(zip((*SHARED, *given), model.state["_init_args"] or ()))
    options = {"label_dim": 0, "augment_dim": 0, **given, **positional, **model.state["_init_kwargs"]}
    names = Renaming(model.tensors())
    network = _song if model.class_name == "SongUNet" else _dhariwal
    network_class, config = network(names, options)
    classes = int(options["label_dim"])
    sigma_data = float(net.state["sigma_data"])
    if not 0 < sigma_data < math.inf:
        raise UsageError(f"has sigma_data {sigma_data}, which must be above 0: it is damaged.")
    scheduler = EDMEulerScheduler(**SIGMA_RANGE, sigma_data=sigma_data)
    empty = classes if classes and options["label_dropout"] else None
    return Converted(network_class, config, names.all(), scheduler, classes, empty)


def _sizes(options):
    """Pixels of a side at each level."""
    return [int(options["img_resolution"]) >> level for level in range(len(options["channel_mult"]))]


def _song(names, options):
    config, classes = _song_config(options), int(options["label_dim"])
    _song_embeddings(names, config, classes)
    _song_blocks(names, _sizes(options), config["layers_per_block"])
    _drop_filters(names)
    return EDMUNet2DModel, config


def _song_config(options):
    classes = int(options["label_dim"])
    return {
        "sample_size": int(options["img_resolution"]),
        "in_channels": int(options["in_channels"]),
        "out_channels": int(options["out_channels"]),
        "base_channels": int(options["model_channels"]),
        "channel_multipliers": list(options["channel_mult"]),
        "layers_per_block": int(options["num_blocks"]),
        "attention_resolutions": list(options["attn_resolutions"]),
        "dropout": float(options["dropout"]),
        "num_class_embeds": classes + 1 if classes else None,
        "augment_dim": int(options["augment_dim"]),
        "time_embedding_type": options["embedding_type"],
        "time_embedding_multiplier": int(options["channel_mult_noise"]),
        "embedding_multiplier": int(options["channel_mult_emb"]),
        "encoder_type": options["encoder_type"],
        "decoder_type": options["decoder_type"],
        "resample_filter": FILTER_NAMES[tuple(options["resample_filter"])],
    }


def _song_embeddings(names, config, classes):
    names.move("time_embedding.linear_1", "map_layer0")
    names.move("time_embedding.linear_2", "map_layer1")
    if config["time_embedding_type"] == "fourier":
        names.state["time_proj.frequencies"] = names.left.pop("map_noise.freqs").float()
    if classes:  # they multiply a vector with a 1 for the class, or without, by this matrix
        empty = names.take("map_label", "bias")
        rows = names.take("map_label").T * math.sqrt(classes) + empty
        names.state["class_embedding.weight"] = torch.cat([rows, empty[None]])
    if config["augment_dim"]:
        names.move("augment_embedding", "map_augment")


def _song_blocks(names, sizes, blocks):
    names.move("conv_in", f"enc.{sizes[0]}x{sizes[0]}_conv")
    for level, size in enumerate(sizes):
        old, new = f"enc.{size}x{size}_", f"encoder.{level}."
        if level:
            _song_block(names, f"{new}down", f"{old}down")
        for kind in ("skip", "residual"):
            if names.has(f"{old}aux_{kind}"):
                names.move(f"{new}image.conv", f"{old}aux_{kind}")
        for i in range(blocks):
            _song_block(names, f"{new}blocks.{i}", f"{old}block{i}")
    for number, size in enumerate(reversed(sizes)):
        _song_decoder_level(names, f"decoder.{number}.", f"dec.{size}x{size}_", blocks, is_lowest=number == 0)


def _song_decoder_level(names, new, old, blocks, is_lowest):
    for i, name in enumerate(["in0", "in1"] if is_lowest else ["up"]):
        _song_block(names, f"{new}enter.{i}", f"{old}{name}")
    for i in range(blocks + 1):
        _song_block(names, f"{new}blocks.{i}", f"{old}block{i}")
    if names.has(f"{old}aux_conv"):
        names.move(f"{new}head.norm", f"{old}aux_norm")
        names.move(f"{new}head.conv", f"{old}aux_conv")


def _song_block(names, new, old):
    names.resnet(f"{new}.resnet", old, NVLABS)
    if names.has(f"{old}.qkv"):
        names.attention(f"{new}.attention", f"{old}.norm2", f"{old}.qkv", f"{old}.proj", interleaved=True)


def _drop_filters(names):
    """The filters are constants here."""
    for name in [name for name in names.left if name.endswith("resample_filter")]:
        del names.left[name]


def _dhariwal(names, options):
    classes, sizes, blocks = int(options["label_dim"]), _sizes(options), int(options["num_blocks"])
    widths = [int(options["model_channels"] * multiplier) for multiplier in options["channel_mult"]]
    attention = [size in options["attn_resolutions"] for size in sizes]
    config = adm_config(sizes[0], widths, blocks, attention, classes + 1 if classes else None, scale_shift=True)
    config |= {"in_channels": int(options["in_channels"]), "out_channels": int(options["out_channels"])}
    config["time_embedding_dim"] = int(options["model_channels"] * options["channel_mult_emb"])
    if widths[0] != options["model_channels"]:
        raise UsageError(f"has {widths[0]} channels at its first level and a time embedding of another size.")
    names.move("time_embedding.linear_1", "map_layer0")
    names.move("time_embedding.linear_2", "map_layer1")
    if classes:
        rows = names.take("map_label").T
        names.state["class_embedding.weight"] = torch.cat([rows, torch.zeros_like(rows[:1])])
    names.left.pop("map_augment.weight", None)  # it acts on augmentation labels alone, which are zeros in use
    names.move("conv_norm_out", "out_norm")
    names.move("conv_out", "out_conv")
    _dhariwal_blocks(names, sizes, blocks)
    _drop_filters(names)
    return UNet2DModel, config


def _dhariwal_blocks(names, sizes, blocks):
    def block(old, where, kind, i):
        names.resnet(f"{where}.{kind}.{i}", old, NVLABS)
        if names.has(f"{old}.qkv"):
            parts = f"{old}.norm2", f"{old}.qkv", f"{old}.proj"
            names.attention(f"{where}.attentions.{i}", *parts, interleaved=True)

    names.move("conv_in", f"enc.{sizes[0]}x{sizes[0]}_conv")
    for level, size in enumerate(sizes):
        if level:
            block(f"enc.{size}x{size}_down", f"down_blocks.{level - 1}", "downsamplers", 0)
        for i in range(blocks):
            block(f"enc.{size}x{size}_block{i}", f"down_blocks.{level}", "resnets", i)
    for number, size in enumerate(reversed(sizes)):
        old = f"dec.{size}x{size}_"
        if number:
            block(f"{old}up", f"up_blocks.{number - 1}", "upsamplers", 0)
        else:
            block(f"{old}in0", "mid_block", "resnets", 0)
            block(f"{old}in1", "mid_block", "resnets", 1)
        for i in range(blocks + 1):
            block(f"{old}block{i}", f"up_blocks.{number}", "resnets", i)
