# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The paper's pixel-space teachers at full size, with random weights, and a tiny one for a rehearsal."""

import json

from diffusers import CMStochasticIterativeScheduler, EDMEulerScheduler, UNet2DModel

from disback_diffusers.models.edm_conversion import CLASSES_NAME
from disback_diffusers.models.edm_renaming import SIGMA_RANGE, adm_config
from disback_diffusers.models.edm_unet import EDMUNet2DModel
from disback_diffusers.models.families import EDM

from .models import RandomWeights


OF_EDM = EDMEulerScheduler(**SIGMA_RANGE, sigma_data=0.5)
OF_OPENAI = CMStochasticIterativeScheduler(**SIGMA_RANGE, sigma_data=0.5)
DDPMPP = {"sample_size": 64, "base_channels": 128, "channel_multipliers": (1, 2, 2, 2), "layers_per_block": 4,
          "attention_resolutions": (16,), "augment_dim": 9}  # fmt: skip
ADM64 = adm_config(64, [192, 384, 576, 768], 3, [False, True, True, True], 1001, scale_shift=True)
ADM256 = adm_config(256, [256, 256, 512, 512, 1024, 1024], 2, [False] * 3 + [True] * 3, None, scale_shift=True)
TEACHERS = {  # network, scheduler, classes, empty class; by the end of the name of their preset
    "ffhq64": (EDMUNet2DModel, DDPMPP, OF_EDM, 0, None),
    "imagenet64": (UNet2DModel, ADM64, OF_EDM, 1000, 1000),
    "lsun256": (UNet2DModel, ADM256, OF_OPENAI, 0, None),
}


def write_pixel_configs(folder, name, tiny=False):
    """A teacher's folder without weights."""
    cls, config, scheduler, classes, empty = TEACHERS[name]
    if tiny:
        cls, config = UNet2DModel, adm_config(8, [128, 128], 1, [False, True], config.get("num_class_embeds"), True)
    (folder / "unet").mkdir(parents=True)
    files = {
        "model_index.json": {"_class_name": EDM.pipeline_name},
        "unet/config.json": {"_class_name": cls.__name__, **config},
    }
    if classes:
        files[CLASSES_NAME] = {"classes": classes, "empty_class": empty}
    for file, values in files.items():
        (folder / file).write_text(json.dumps(values), encoding="utf-8")
    scheduler.save_pretrained(folder / "scheduler")


class RandomEDM(RandomWeights, EDM):
    """An EDM teacher of random weights."""

    load_encoder = EDM.load_encoder
