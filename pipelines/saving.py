# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Saves a student so that it works in plain diffusers."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.layout import public_config, write_config
from disback_diffusers.errors import UsageError


OF_THE_BASE = ("lora_rank", "lora_alpha", "variant")  # do not apply to a whole pipeline
GUIDANCE_EMBEDDING = 256  # its size in published LCMs


@contextmanager
def without_guidance(unet: UNet2DConditionModel | None) -> Iterator[None]:
    """Within this context, the UNet has the layer by which diffusers recognises a guidance-distilled network.

    Stock pipelines then make no unconditional pass, whatever their `guidance_scale`. They pass the scale to the UNet,
    where it has no effect: the weights of the layer are zero.
    """
    unet = getattr(unet, "_orig_mod", unet)  # of a compiled model
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


def save_stock(
    pipe: DiffusionPipeline, folder: Path, repo_id: str | None = None, variant: str | None = None, **kwargs
) -> None:
    """Save one of our pipelines as a pipeline of the stock class, with disback_config.json and a model card.

    Args:
        pipe (`StudentPipeline`).
        folder (`Path`): created if missing.
        repo_id (`str`, *optional*): the repository on the Hub that it will be uploaded to.
        variant (`str`, *optional*), kwargs: as in `save_pretrained` of diffusers.

    Raises:
        UsageError: the pipeline has no student, or pickled weights are requested.
        RunError: a file cannot be written.
    """
    if pipe.unet is None:
        raise UsageError("the pipeline was loaded with unet=None: there is no student to save.")
    if not kwargs.get("safe_serialization", True):
        raise UsageError("safe_serialization=False: pickled weights are not written; leave it out.")
    pipe._warn_if_student_is_off()
    stock, steps = pipe._stock()
    with without_guidance(stock.unet) if isinstance(stock.unet, UNet2DConditionModel) else nullcontext():
        stock.save_pretrained(str(folder), variant=variant, **kwargs)
    if not pipe._student_is_off:  # otherwise the saved model is not a student
        config = _config(pipe, variant, steps)
        write_config(folder, config)
        model_card(folder, config, repo_id, steps=steps, whole=True)


def _config(pipe, variant, steps):
    """disback_config.json of a student that is saved as a whole pipeline."""
    config = {key: value for key, value in pipe._student_config.items() if key not in OF_THE_BASE}
    config |= {"pipeline": pipe.stock_class.__name__, "student": "full", **pipe._times(steps)}
    return public_config({**config, **({"variant": variant} if variant else {})})
