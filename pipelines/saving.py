# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What makes a saved student work in plain diffusers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from disback_diffusers.artifact.layout import public_config


OF_THE_BASE = ("lora_rank", "lora_alpha", "variant")  # of no use to a whole pipeline
GUIDANCE_EMBEDDING = 256  # its size in the published LCMs


def saved_config(pipe: DiffusionPipeline, variant: str | None, timesteps: list[int]) -> dict:
    """disback_config.json of a student's pipeline that is saved as a whole."""
    config = {key: value for key, value in pipe._student_config.items() if key not in OF_THE_BASE}
    config |= {"pipeline": pipe.stock_class.__name__, "student": "full"}
    config |= {"timesteps": timesteps, **({"variant": variant} if variant else {})}
    return public_config(config)


@contextmanager
def without_guidance(unet: UNet2DConditionModel | None) -> Iterator[None]:
    """Within, the UNet has the layer by which diffusers recognises a guidance-distilled network.

    Stock pipelines then make no unconditional pass, whatever their `guidance_scale`, and give the scale to the UNet.
    The layer's weights are zero, so that the scale has no effect.
    """
    unet = getattr(unet, "_orig_mod", unet)  # of a compiled one
    if unet is None or unet.config.time_cond_proj_dim is not None:
        yield
        return
    embedding = unet.time_embedding
    sample = embedding.linear_1.weight
    layer = torch.nn.Linear(GUIDANCE_EMBEDDING, sample.shape[1], bias=False, device=sample.device, dtype=sample.dtype)
    torch.nn.init.zeros_(layer.weight)
    before = embedding.cond_proj
    embedding.cond_proj = layer
    unet.register_to_config(time_cond_proj_dim=GUIDANCE_EMBEDDING)
    try:
        yield
    finally:
        embedding.cond_proj = before
        unet.register_to_config(time_cond_proj_dim=None)
