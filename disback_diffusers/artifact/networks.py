# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Loads the network of a student or of its base model."""

from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel

from ..errors import UsageError
from ..models.edm_unet import EDMUNet2DModel


NETWORKS = {cls.__name__: cls for cls in (UNet2DConditionModel, UNet2DModel, EDMUNet2DModel)}
HUB_KWARGS = ("token", "cache_dir", "local_files_only", "force_download")
MODEL_KWARGS = (*HUB_KWARGS, "dtype", "torch_dtype", "low_cpu_mem_usage", "use_safetensors")


def options_of_the_unet(kwargs: dict) -> dict:
    """Those of the arguments of a pipeline's `from_pretrained` that its UNet takes."""
    kwargs = {key: value for key, value in kwargs.items() if key in MODEL_KWARGS}
    for key in ("dtype", "torch_dtype"):
        if isinstance(kwargs.get(key), dict):  # one dtype per component
            kwargs[key] = kwargs[key].get("unet", kwargs[key].get("default"))
    return kwargs


def load_network(cls: type[ModelMixin], source: str, **options) -> ModelMixin:
    """`from_pretrained`; a UsageError where weights are missing, which diffusers would leave uninitialised."""
    network, info = cls.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise UsageError(f"lacks {missing[0]} (and {len(missing) - 1} more): restore it, or download it again.")
    return network
