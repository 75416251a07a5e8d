# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Another UNet than the teacher's for a full student to start as, such as a smaller one."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from ..errors import UsageError, one_line


# What must be equal in two UNets for one to take the place of the other in a pipeline.
UNET_INTERFACE = (
    "in_channels",
    "out_channels",
    "cross_attention_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)


class StudentUNet:
    """The UNet of `--student_unet`. The constructor reads its config only.

    Attributes:
        config (`dict`): all of its settings; `sample_size`, from which a pipeline takes the size of images, is the
            teacher's.

    Args:
        name (`str`): folder or Hub id of a UNet, or of a pipeline with one.
        teacher_config (`dict`): of the teacher's UNet.

    Raises:
        UsageError: there is none, or one that cannot take the place of the teacher's.
    """

    def __init__(self, name, teacher_config):
        self.name = name
        self._subfolder, config = self._find()
        try:
            with torch.device("meta"):
                unet = UNet2DConditionModel.from_config(config)
        except Exception as error:  # settings that contradict each other, or are of another class
            raise self._error(f"has no valid config: {one_line(error)}") from None
        self.config = {**unet.config, "sample_size": teacher_config["sample_size"]}
        for key in UNET_INTERFACE:
            if self.config[key] != teacher_config[key]:
                raise self._error(
                    f"has {key} {self.config[key]}, the teacher's UNet {teacher_config[key]}: it cannot take its "
                    "place. Give a UNet of the same kind of model."
                )

    def _error(self, message):
        return UsageError(f"--student_unet {self.name} {message}")

    def _find(self):
        """The subfolder it lies in, and its config."""
        reasons, folder = [], Path(self.name)
        is_unet = folder.is_dir() and not (folder / "unet").is_dir()
        for subfolder in (None,) if is_unet else ("unet", None):
            try:
                config = UNet2DConditionModel.load_config(self.name, subfolder=subfolder)
            except Exception as error:  # no such folder or repository, no network, no JSON
                reasons.append(one_line(error))
                continue
            if config.get("_class_name") != "UNet2DConditionModel":
                raise self._error(f"is a {config.get('_class_name')}: a UNet2DConditionModel is needed.")
            return subfolder, config
        raise self._error(f"holds no UNet: {reasons[0]}")

    def load(self):
        """The UNet, float32, on the CPU. Raises a UsageError where its weights are missing, broken or pickled."""
        load = UNet2DConditionModel.from_pretrained
        try:
            unet = load(self.name, subfolder=self._subfolder, use_safetensors=True, dtype=torch.float32)
        except Exception as error:  # as above
            raise self._error(f"cannot be loaded: {one_line(error)}") from None
        missing = [name for name, parameter in unet.named_parameters() if parameter.is_meta]
        if missing:
            raise self._error(f"lacks {missing[0]} (and {len(missing) - 1} more): download it again.")
        unet.register_to_config(sample_size=self.config["sample_size"])
        return unet
