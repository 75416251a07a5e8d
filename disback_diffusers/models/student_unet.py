# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Another UNet than the teacher's for a student to start as, such as a smaller one, or a few-step one."""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from ..errors import UsageError, one_line
from ..files import CONFIG_NAME
from .pipeline_files import INDEX_NAME, PipelineFiles, refuse_single_file


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
    """A UNet for a student. The constructor reads its config only.

    Attributes:
        config (`dict`): all of its settings; `sample_size`, from which a pipeline takes the size of images, is the
            teacher's.

    Args:
        name (`str`): folder or Hub id of a UNet, or of a pipeline with one.
        teacher_config (`dict`): of the teacher's UNet.
        variant (`str`, *optional*): of the weights, where there are such files.
        prediction_type (`str`, *optional*): of the teacher. A pipeline's UNet must predict the same.

    Raises:
        UsageError: there is none, or one that cannot take the place of the teacher's.
        RunError: the Hub cannot be reached and the cache does not hold it.
    """

    def __init__(
        self, name: str, teacher_config: dict, variant: str | None = None, prediction_type: str | None = None
    ):
        self.name = name
        files = self._files()
        if CONFIG_NAME in files.names and INDEX_NAME in files.names:
            raise self.error("is a student saved as a whole pipeline: give the folder its training wrote.")
        self._check_prediction(files, prediction_type)
        self._subfolder = files.place("unet")
        self.config = {**self._read_config(), "sample_size": teacher_config["sample_size"]}
        for key in UNET_INTERFACE:
            if self.config[key] != teacher_config[key]:
                raise self.error(
                    f"has {key} {self.config[key]}, the teacher's UNet {teacher_config[key]}: it cannot take its "
                    "place. Give a UNet of the same kind of model."
                )
        self._variant = files.variant(self._subfolder, variant, or_the_only_one=True)

    def error(self, message: str) -> UsageError:
        """A UsageError about this UNet; the message has no subject."""
        return UsageError(f"{self.name} {message}")

    def _files(self):
        refuse_single_file(self.name, "UNet2DConditionModel")
        files = PipelineFiles(self.name)
        if not {"unet/config.json", "config.json"}.intersection(files.names):
            raise self.error("holds no UNet: there is no unet/config.json and no config.json.")
        return files

    def _check_prediction(self, files, expected):
        if expected is None or "scheduler/scheduler_config.json" not in files.names:
            return
        try:
            config = DDIMScheduler.load_config(self.name, subfolder="scheduler")
            found = config.get("prediction_type", "epsilon")
        except Exception as error:  # of several libraries
            raise self.error(f"has no valid scheduler config: {one_line(error)}") from None
        if found != expected:
            raise self.error(f"predicts {found} (scheduler/), the teacher {expected}: it cannot take its place.")

    def _read_config(self):
        """All settings of the UNet (`dict`)."""
        try:
            config = UNet2DConditionModel.load_config(self.name, subfolder=self._subfolder)
            if config.get("_class_name") == "UNet2DConditionModel":
                with torch.device("meta"):
                    return dict(UNet2DConditionModel.from_config(config).config)
        except Exception as error:  # settings that contradict each other, or are of another class
            raise self.error(f"has no valid config: {one_line(error)}") from None
        raise self.error(f"is a {config.get('_class_name')}: a UNet2DConditionModel is needed.")

    def load(self) -> UNet2DConditionModel:
        """The UNet, float32, on the CPU. Raises a UsageError where its weights are broken."""
        options = {"subfolder": self._subfolder, "variant": self._variant, "use_safetensors": True}
        try:
            unet = UNet2DConditionModel.from_pretrained(self.name, dtype=torch.float32, **options)
        except Exception as error:  # as above
            raise self.error(f"cannot be loaded: {one_line(error)}") from None
        missing = [name for name, parameter in unet.named_parameters() if parameter.is_meta]
        if missing:
            raise self.error(f"lacks {missing[0]} (and {len(missing) - 1} more): download it again.")
        unet.register_to_config(sample_size=self.config["sample_size"])
        return unet
