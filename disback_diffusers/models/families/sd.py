# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stable Diffusion 1.x and 2.x, and what is fine-tuned from them; epsilon or v prediction, any scheduler config."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from ...diffusion.noise import NoiseSchedule
from ...errors import UsageError, about
from ..autoencoder import Autoencoder, check_scaling_factor
from ..conditions import Conditions
from ..lora_file import LoraFile
from ..lora_targets import ALL_TARGETS, ATTENTION_TARGETS
from ..sizes import Bucket, pixels
from ..source import ModelSource
from ..teacher_scheduler import teacher_scheduler
from ..text_lora import fuse_into_text_encoders
from ..text_parts import TextPart, without_truncation_warnings
from .base import Family


if TYPE_CHECKING:
    from ..denoiser import Denoiser  # which imports .base


# UNets with one of these need inputs that a text-to-image pipeline does not give.
UNSUPPORTED = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


class StableDiffusion(Family):
    """A `StableDiffusionPipeline`. Its conditions are "text" (n, tokens, size).

    Attributes:
        vae_config (`dict`). vae_scale_factor (`int`): pixels of a side for each position of the latents.
        text_parts (`list[TextPart]`): tokenizers and text encoders.
    """

    pipeline_name = "StableDiffusionPipeline"
    pipeline_class = StableDiffusionPipeline
    stock_guidance_scale = 7.5
    network_class = UNet2DConditionModel
    uses_prompts = True
    served = True
    supports = frozenset({"student_unet", "lcm_lora", "student_steps", "guidance"})
    lora_targets = {"attention": ATTENTION_TARGETS, "all": ALL_TARGETS}
    text_encoders = {"text_encoder": CLIPTextModel}
    addition_embed_type = None  # of the UNet: what it is conditioned on beside the prompt

    def __init__(self, source: ModelSource):
        super().__init__(source)
        self.vae_config = source.config(AutoencoderKL, "vae")
        check_scaling_factor(self.vae_config, self.error)
        self.latent_channels = self.network_config["in_channels"]
        self.vae_scale_factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        self.grid_period = self.vae_scale_factor if self.vae_scale_factor > 1 else None
        self._check_unet()
        self.text_parts = [self._text_part(encoder, cls.__name__) for encoder, cls in self.text_encoders.items()]
        for part, (encoder, cls) in zip(self.text_parts, self.text_encoders.items(), strict=True):
            source.check_builds(encoder, lambda cls=cls, part=part: cls(part.config))
        self._check_text_sizes()
        source.check_weights(["unet", "vae", *self.text_encoders])
        self._autoencoder = Autoencoder(source, self.vae_config)

    # -----------------------------------------------------------------------------------------------------------------
    # Checks

    def _read_schedule(self) -> NoiseSchedule:
        schedule = super()._read_schedule()
        if schedule.num_train_timesteps is None:
            kind = self.scheduler_config["_class_name"]
            raise self.error(f"has a {kind}: only schedulers with whole timesteps are supported.")
        return schedule

    def _check_unet(self):
        config, outputs = self.network_config, self.network_config["out_channels"]
        if self.latent_channels != self.vae_config["latent_channels"]:
            raise self.error(
                f"has a UNet of {self.latent_channels} input channels for latents of "
                f"{self.vae_config['latent_channels']} (an inpainting or image-conditioned model): take the plain "
                "text-to-image model."
            )
        if outputs != self.latent_channels:
            raise self.error(
                f"has a UNet of {outputs} output channels for {self.latent_channels} input channels (it predicts the "
                "variance too): it cannot be distilled."
            )
        for key in UNSUPPORTED:
            if config.get(key) is not None:
                raise self.error(f"has a UNet with {key} {config[key]!r}: only text-to-image UNets can be distilled.")
        if config.get("addition_embed_type") != self.addition_embed_type:
            raise self.error(
                f"has a UNet with addition_embed_type {config.get('addition_embed_type')!r}, a "
                f"{self.pipeline_name} has {self.addition_embed_type!r}: take another script."
            )

    def _text_part(self, encoder, kind):
        try:
            return TextPart(self.source.load, self.source.index, self.source.files.folders, encoder, kind)
        except UsageError as error:
            complete = str(error).startswith(self.name)
            raise error if complete else self.error(str(error)) from None

    def _check_text_sizes(self):
        size = sum(part.config.hidden_size for part in self.text_parts)
        if size != self.network_config["cross_attention_dim"]:
            raise self.error(
                f"has a UNet for prompts of size {self.network_config['cross_attention_dim']} (cross_attention_dim), "
                f"but {' and '.join(self.text_encoders)} give {size}: the parts are of different models."
            )
        if len({part.tokenizer.model_max_length for part in self.text_parts}) > 1:
            raise self.error("has tokenizers of different model_max_length: set it to the same number in both.")

    # -----------------------------------------------------------------------------------------------------------------
    # The network and its conditions

    def call(
        self, network: torch.nn.Module, x_t: torch.Tensor, t: torch.Tensor, conditions: Conditions
    ) -> torch.Tensor:
        """As in `Family`."""
        text = conditions.tensors["text"]
        return network(x_t, t, encoder_hidden_states=text, added_cond_kwargs=self._added(conditions)).sample

    def _added(self, conditions):
        return None

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of a prompt are read."""
        return self.text_parts[0].tokenizer.model_max_length

    def longer_than_read(self, prompts: list[str]) -> int:
        """As in `Family`. Raises a UsageError, without a subject, for a prompt that cannot be tokenized."""
        return max(part.longer_than_read(prompts) for part in self.text_parts)

    def load_encoder(
        self, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> Callable[[list[str]], Conditions]:
        """As in `Family`, by the stock pipeline's own `encode_prompt`."""
        others = ("unet", "vae", "safety_checker", "feature_extractor", "image_encoder")
        parts = {name: None for name in others if name in self.source.index}
        parts |= {name: self.source.text_encoder(cls, name, dtype) for name, cls in self.text_encoders.items()}
        pipeline = self.source.load("tokenizer", self.pipeline_class.from_pretrained, **parts)
        if self.lora:
            with about(self.lora.source):
                fuse_into_text_encoders(pipeline, self.lora.text, self.lora_strength)
        pipeline.to(device)

        @torch.no_grad()
        def encode(prompts):
            with without_truncation_warnings():
                return self._encode(pipeline, prompts)

        return encode

    def add_lora(self, lora: LoraFile, strength: float = 1.0) -> None:
        """As in `Family`; it may adapt the text encoders too."""
        if missing := lora.text.keys() - self.text_encoders.keys():
            raise lora.error(f"adapts a {min(missing)}, which the teacher does not have: it is of another base.")
        super().add_lora(lora, strength)

    def _encode(self, pipeline, prompts):
        return Conditions({"text": pipeline.encode_prompt(prompts, pipeline.device, 1, False)[0]})

    def example_conditions(self) -> Conditions:
        """As in `Family`."""
        return Conditions({"text": torch.zeros(1, self.prompt_tokens, self.network_config["cross_attention_dim"])})

    def count_encoder_parameters(self) -> int:
        """As in `Family`."""
        with torch.device("meta"):
            encoders = [cls(part.config) for part, cls in zip(self.text_parts, self.text_encoders.values())]
        return sum(parameter.numel() for encoder in encoders for parameter in encoder.parameters())

    # -----------------------------------------------------------------------------------------------------------------
    # Samples

    @property
    def default_resolution(self) -> str:
        """The size the UNet was trained at, such as "512" or "832x1216" (width x height, in pixels)."""
        size = self.network_config["sample_size"]
        if size is None:
            raise self.error("has a UNet without sample_size, so its size is not known: give a resolution.")
        height, width = (size, size) if isinstance(size, int) else size
        return f"{width * self.vae_scale_factor}x{height * self.vae_scale_factor}"

    def buckets(self, resolution: list[str]) -> list[Bucket]:
        """As in `Family`; a sample is latents (c, h, w)."""
        return [self._bucket(text) for text in resolution or [self.default_resolution]]

    def _bucket(self, text):
        width, height = pixels(text)
        factor = self.vae_scale_factor
        if width % factor or height % factor:
            raise UsageError(f"{text} must be a multiple of {factor}, the VAE's factor.")
        return Bucket((self.latent_channels, height // factor, width // factor), self._size_conditions(height, width))

    def _size_conditions(self, height, width):
        return {}

    def use_vae(self, name: str) -> None:
        """As in `Family`."""
        self._autoencoder.use(name)

    def prepare_decoder(self) -> None:
        """Load the VAE, on the CPU."""
        self._autoencoder.load()

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """As in `Family`; between calls the VAE is on the CPU."""
        return self._autoencoder.decode(x0)

    def image_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """As in `Family`."""
        return shape[-2] * self.vae_scale_factor, shape[-1] * self.vae_scale_factor

    @property
    def image_encoder(self) -> str:
        """As in `Family`."""
        return self._autoencoder.other or ""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """As in `Family`; between calls the VAE is on the CPU."""
        return self._autoencoder.encode(images)

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
        own = teacher_scheduler(self.scheduler_config, self.schedule, steps, scheduler)
        pipeline = self._stock_pipeline(teacher.network, own)
        height, width = (size * self.vae_scale_factor for size in z.shape[-2:])
        with teacher.running():
            return pipeline(
                latents=z,
                generator=torch.Generator().manual_seed(0),  # for schedulers that add noise
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="latent",
                **self._call_arguments(conditions, empty, height, width),
            ).images.float()

    def _stock_pipeline(self, unet, scheduler):
        parts = dict.fromkeys((*self.text_encoders, *(part.tokenizer_name for part in self.text_parts)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings of old schedulers, which the stock class corrects
            pipeline = self.pipeline_class(vae=None, unet=unet, scheduler=scheduler, **parts, **self._stock_options())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _stock_options(self):
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def _call_arguments(self, conditions, empty, height, width):
        return {"prompt_embeds": conditions.tensors["text"], "negative_prompt_embeds": empty.tensors["text"]}
