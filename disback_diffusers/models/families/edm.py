# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Pixel-space teachers, unconditional or class-conditional: EDM's, those of the consistency models, and DDPM's."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import hf_hub_download

from ...diffusion.guidance import guided_output
from ...diffusion.heun import heun
from ...diffusion.times import karras_levels
from ...errors import UsageError
from ..conditions import Conditions
from ..edm_conversion import CLASSES_NAME
from ..edm_unet import EDMUNet2DModel
from ..labels import read_classes
from ..lora_targets import ALL_TARGETS, ATTENTION_TARGETS
from ..sizes import Bucket, pixels
from ..source import ModelSource
from ..teacher_scheduler import teacher_scheduler
from ..unet_2d import UNet2DModel
from .base import Family


if TYPE_CHECKING:
    from ..denoiser import Denoiser  # which imports .base


CM_SCHEDULER = "CMStochasticIterativeScheduler"
EDM_TIMES, CONSISTENCY_TIMES = "edm", "consistency model"
SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", CM_SCHEDULER)  # with ln(sigma) as network time


class PixelFamily(Family):
    """A `UNet2DModel` or an `EDMUNet2DModel` on pixels. Its conditions are "labels" (n,), or none.

    Attributes:
        classes (`int`): 0 for an unconditional teacher. empty_class (`int` or `None`): the label that stands for none.
        class_names (`list[str]` or `None`): where classes.json has them.
    """

    lora_targets = {"attention": ATTENTION_TARGETS, "all": ALL_TARGETS}
    served = True
    guidance_scale = 1.0

    def __init__(self, source: ModelSource):
        place = source.files.place(self.network_folder)
        raw = source.load("unet/ config", UNet2DModel.load_config, subfolder=place)
        own = isinstance(raw, dict) and raw.get("_class_name") == EDMUNet2DModel.__name__
        self.network_class = EDMUNet2DModel if own else UNet2DModel
        super().__init__(source)
        self._check_network()
        self.classes, self.empty_class, self.class_names = self._read_classes()
        size = self.network_config["sample_size"]
        self.interface["image_shape"] = [self.network_config["in_channels"], size, size]
        source.check_weights([self.network_folder])

    def _check_network(self):
        config = self.network_config
        if config["in_channels"] != config["out_channels"]:
            raise self.error(
                f"has a UNet of {config['out_channels']} output channels for {config['in_channels']} input channels "
                "(it predicts the variance too, or is conditioned on an image): it cannot be distilled."
            )
        if config["in_channels"] not in (1, 3):
            raise self.error(f"has images of {config['in_channels']} channels: only 1 or 3 are supported.")
        size, levels = config["sample_size"], config.get("block_out_channels") or config["channel_multipliers"]
        if not isinstance(size, int) or size < 1:
            raise self.error(f"has a UNet of sample_size {size}: it must be one number above 0, for square images.")
        if size % 2 ** (len(levels) - 1):
            raise self.error(f"has a UNet of sample_size {size}, which cannot be halved {len(levels) - 1} times.")
        if config["num_class_embeds"] == 0:
            raise self.error("has a UNet with num_class_embeds 0: it must be a number of classes, or null for none.")
        if config.get("center_input_sample") or config.get("class_embed_type"):
            raise self.error("has a UNet with center_input_sample or class_embed_type: it cannot be distilled.")
        if self.network_class is UNet2DModel and config["time_embedding_type"] != "positional":
            raise self.error(f"has a UNet with time_embedding_type {config['time_embedding_type']}: use positional.")

    def _read_classes(self):
        rows = self.network_config["num_class_embeds"] or 0
        if CLASSES_NAME not in self.source.files.names:
            return rows, None, None
        recorded = self.source.load(CLASSES_NAME, _read_json)
        try:
            return read_classes(recorded, rows)
        except ValueError:
            raise self.error(f"has a {CLASSES_NAME} that does not fit its network: {recorded}.") from None

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def bottleneck_channels(self) -> int | None:
        """As in `Family`."""
        if self.network_class is not EDMUNet2DModel:
            return super().bottleneck_channels
        return self.network_config["base_channels"] * self.network_config["channel_multipliers"][-1]

    def bottleneck(self, network: torch.nn.Module) -> torch.nn.Module:
        """As in `Family`."""
        return network.bottleneck if self.network_class is EDMUNet2DModel else super().bottleneck(network)

    def call(
        self, network: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """As in `Family`."""
        return network(x_t, self._network_time(t), class_labels=conditions.tensors.get("labels")).sample

    def _network_time(self, t):
        """What the network is given as its timestep at time t."""
        return t

    @property
    def can_be_empty(self) -> bool:
        """As in `Family`: a class-conditional network has to have been trained without labels too."""
        return not self.classes or self.empty_class is not None

    def load_encoder(
        self, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Callable[[list[str]], Conditions]:
        """As in `Family`: of labels as text. The empty one stands for none, where the teacher has that."""
        if not self.classes:
            return super().load_encoder(device, dtype)
        empty = self.empty_class or 0

        def encode(labels):
            numbers = [int(label) if label else empty for label in labels]
            return Conditions({"labels": torch.tensor(numbers, device=device)})

        return encode

    def example_conditions(self) -> Conditions:
        """As in `Family`."""
        if not self.classes:
            return super().example_conditions()
        return Conditions({"labels": torch.zeros(1, dtype=torch.long)})

    # -----------------------------------------------------------------------------------------------------------------

    def buckets(self, resolution: list[str]) -> list[Bucket]:
        """As in `Family`; a sample is an image (c, h, w) in [-1, 1]."""
        size = self.network_config["sample_size"]
        for text in resolution:
            if pixels(text) != (size, size):
                raise UsageError(f"{text}: this teacher has images of {size}x{size}: leave it out.")
        return [Bucket((self.network_config["in_channels"], size, size))]

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """As in `Family`."""
        images = (x0.float() / 2 + 0.5).clamp(0, 1).cpu()
        return images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """As in `Family`; a network of one channel sees the mean of the three."""
        x0 = images.float().cpu() * 2 - 1
        return x0 if self.network_config["in_channels"] == 3 else x0.mean(dim=1, keepdim=True)


class EDM(PixelFamily):
    """A `ConsistencyModelPipeline` whose network is EDM's denoiser; time is the noise level sigma."""

    pipeline_name = "ConsistencyModelPipeline"

    def __init__(self, source: ModelSource):
        super().__init__(source)
        if self.schedule.prediction_type != "edm":
            raise self.error(
                f"has prediction_type {self.schedule.prediction_type} in scheduler/: EDM's own is needed."
            )
        if self.scheduler_config.get("_class_name") not in SCHEDULERS:
            raise self.error(
                f"has a {self.scheduler_config.get('_class_name')} in scheduler/: take one of {', '.join(SCHEDULERS)}."
            )
        self.interface["network_times"] = CONSISTENCY_TIMES if self._is_consistency else EDM_TIMES
        self.interface["sigma_data"] = self.schedule.data_std

    def _network_time(self, t):
        """c_noise: ln(sigma) / 4 in EDM, a thousand times as much in the consistency models."""
        return t.float().log() * (250.0 if self._is_consistency else 0.25)

    @property
    def _is_consistency(self):
        return self.scheduler_config.get("_class_name") == CM_SCHEDULER

    def check_sampling(self, steps: int, scheduler: str | None = None) -> None:
        """As in `Family`."""
        if steps < 2:
            raise UsageError(f"{steps}: EDM's sampler takes at least 2 steps.")

    def check_scheduler(self, name: str) -> None:
        """As in `Family`."""
        raise UsageError(f"{name}: an EDM teacher is sampled by Heun's method: leave it out.")

    @torch.no_grad()
    def sample(
        self,
        teacher: "Denoiser",
        z: torch.Tensor,
        conditions: Conditions,
        empty: Conditions,
        steps: int,
        guidance_scale: float = 1.0,
        scheduler: str | None = None,
    ) -> torch.Tensor:
        """As in `Family`, by Heun's method: 2 steps - 1 evaluations."""
        levels = karras_levels(*self.schedule.time_range, steps)

        def denoise(x_t, t):
            output = guided_output(teacher.output, x_t, t, conditions, empty, guidance_scale)
            return self.schedule.to_x0(output, x_t, t)

        return heun(denoise, levels[0].item() * z.float(), levels)


class DDPM(PixelFamily):
    """A `DDPMPipeline`; time is a timestep."""

    pipeline_name = "DDPMPipeline"

    def __init__(self, source: ModelSource):
        super().__init__(source)
        if self.schedule.num_train_timesteps is None:
            raise self.error(
                f"has noise levels in scheduler/, so it is no {self.pipeline_name}: put {EDM.pipeline_name} into its "
                "model_index.json."
            )

    @torch.no_grad()
    def sample(
        self,
        teacher: "Denoiser",
        z: torch.Tensor,
        conditions: Conditions,
        empty: Conditions,
        steps: int,
        guidance_scale: float = 1.0,
        scheduler: str | None = None,
    ) -> torch.Tensor:
        """As in `Family`."""
        stepper = teacher_scheduler(self.scheduler_config, self.schedule, steps, scheduler)
        stepper.set_timesteps(steps, device=z.device)
        x, random = z.float() * stepper.init_noise_sigma, {}
        if "generator" in inspect.signature(stepper.step).parameters:  # for schedulers that add noise
            random = {"generator": torch.Generator().manual_seed(0)}
        for t in stepper.timesteps:
            scaled, times = stepper.scale_model_input(x, t), t.long().expand(len(z))
            output = guided_output(teacher.output, scaled, times, conditions, empty, guidance_scale)
            x = stepper.step(output.float(), t, x, **random).prev_sample
        return x


class DDIM(DDPM):
    """A `DDIMPipeline`, likewise."""

    pipeline_name = "DDIMPipeline"


def _read_json(path, revision=None):
    file = Path(path) / CLASSES_NAME if os.path.isdir(path) else hf_hub_download(path, CLASSES_NAME, revision=revision)
    return json.loads(Path(file).read_text(encoding="utf-8"))
