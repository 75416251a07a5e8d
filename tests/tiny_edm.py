# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Tiny pixel-space teachers of random weights."""

import json

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)

from disback_diffusers.models.edm_unet import EDMUNet2DModel


SIGMAS = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
SMALL = {"sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8,
         "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8,
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}  # fmt: skip
OURS = {"sample_size": 8, "base_channels": 16, "channel_multipliers": (1, 2), "layers_per_block": 1,
        "attention_resolutions": (4,)}  # fmt: skip


def save_teacher(folder, kind="edm", classes=None, empty=None):
    """A teacher of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = None if classes is None else classes + (empty is not None)
        if kind == "ours":
            unet = EDMUNet2DModel(**OURS, num_class_embeds=rows)
        else:
            unet = UNet2DModel(**SMALL, num_class_embeds=rows)
    if kind == "ddpm":
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    else:
        scheduler = CMStochasticIterativeScheduler(**SIGMAS) if kind == "cm" else EDMEulerScheduler(**SIGMAS)
        ConsistencyModelPipeline(unet, scheduler).save_pretrained(folder)
    if empty is not None:
        (folder / "classes.json").write_text(json.dumps({"classes": classes, "empty_class": empty}))
    return str(folder)
