# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Teachers: what is known of a pipeline folder or Hub repository before, and after, its weights are loaded."""

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..diffusion.losses import guide
from ..diffusion.noise import NoiseSchedule
from ..errors import UsageError, one_line
from .conditioning import Bucket, Conditioning, pixels
from .ddim import sampler
from .decoder import Decoder, check_scaling_factor
from .teacher_source import TeacherSource
from .text_parts import TextPart, without_truncation_warnings


# UNets with one of these need inputs that a text-to-image pipeline does not give.
UNSUPPORTED = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


class StableDiffusionTeacher:
    """A `StableDiffusionPipeline` to distill: SD 1.x and 2.x, epsilon or v prediction, any scheduler config.

    The constructor reads the configs and the tokenizer only (a few kB) and checks them, and that the files of the
    weights are there; weights come with the `load_*` methods.

    Attributes:
        name (`str`): as given. commit (`str` or `None`): of a Hub repository.
        schedule (`NoiseSchedule`). scheduler_config, unet_config, vae_config (`dict`).
        warnings (`list[str]`): what a user should know before training.

    Args:
        name (`str`): folder, Hub id, or "embedded".
        revision (`str`, *optional*), variant (`str`, *optional*): as in `from_pretrained`; parts without files of the
            variant are loaded from their plain ones.
        vae (`str`, *optional*): folder or Hub id of another VAE, to decode with.

    Raises:
        UsageError: no such pipeline, another kind of pipeline, or one that cannot be distilled.
        RunError: the Hub cannot be reached and the cache does not hold it.
    """

    pipeline_class = StableDiffusionPipeline
    text_encoders = {"text_encoder": CLIPTextModel}
    addition_embed_type = None  # what the UNet is conditioned on beside the prompt

    def __init__(self, name, revision=None, variant=None, vae=None):
        self.source, self.warnings = TeacherSource(name, revision, variant), []
        self.name, self.commit = name, self.source.commit
        kind = self.source.index.get("_class_name", "model of no known class")
        if kind != self.pipeline_class.__name__:
            raise self._error(
                f"is a {kind}; this script distills a {self.pipeline_class.__name__}: take one, or another script."
            )
        self.unet_config = self.source.config(UNet2DConditionModel, "unet")
        self.vae_config = self.source.config(AutoencoderKL, "vae")
        self.scheduler_config = self.source.scheduler_config()
        if seems := self.source.refuse_distilled(self.unet_config, self.scheduler_config):
            self.warnings.append(seems)
        self.schedule = self._read_schedule()
        check_scaling_factor(self.vae_config, self._error)
        self.latent_channels = self.unet_config["in_channels"]
        self.vae_scale_factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        self._check_unet()
        self.text_parts = [self._text_part(encoder, cls.__name__) for encoder, cls in self.text_encoders.items()]
        for part, (encoder, cls) in zip(self.text_parts, self.text_encoders.items(), strict=True):
            self.source.check_builds(encoder, lambda cls=cls, part=part: cls(part.config))
        self._check_text_sizes()
        self._check_weights()
        self._decoder = Decoder(self.source, self.vae_config, vae)

    def _error(self, message):
        return self.source.error(message)

    def _read_schedule(self):
        try:
            schedule = NoiseSchedule.from_scheduler(self.scheduler_config)
        except UsageError as error:
            raise self._error(f"has a scheduler/ that this package cannot distill: {error}") from None
        except Exception as error:  # of whatever is in the config
            raise self._error(f"has no valid scheduler/ config: {one_line(error)}") from None
        if schedule.num_train_timesteps is None:
            kind = self.scheduler_config["_class_name"]
            raise self._error(f"has a {kind}: only schedulers with whole timesteps are supported.")
        return schedule

    def _check_unet(self):
        config, outputs = self.unet_config, self.unet_config["out_channels"]
        if self.latent_channels != self.vae_config["latent_channels"]:
            raise self._error(
                f"has a UNet of {self.latent_channels} input channels for latents of "
                f"{self.vae_config['latent_channels']} (an inpainting or image-conditioned model): take the plain "
                "text-to-image model."
            )
        if outputs != self.latent_channels:
            raise self._error(
                f"has a UNet of {outputs} output channels for {self.latent_channels} input channels (it predicts the "
                "variance too): it cannot be distilled."
            )
        for key in UNSUPPORTED:
            if config.get(key) is not None:
                raise self._error(f"has a UNet with {key} {config[key]!r}: only text-to-image UNets can be distilled.")
        if config.get("addition_embed_type") != self.addition_embed_type:
            raise self._error(
                f"has a UNet with addition_embed_type {config.get('addition_embed_type')!r}, a "
                f"{self.pipeline_class.__name__} has {self.addition_embed_type!r}: take another script."
            )

    def _check_weights(self):
        """By the names of their files alone."""
        self.source.check_weights(["unet", "vae", *self.text_encoders])

    def _text_part(self, encoder, kind):
        try:
            return TextPart(self.source.load, self.source.index, self.source.files.folders, encoder, kind)
        except UsageError as error:
            complete = str(error).startswith("--pretrained")
            raise error if complete else self._error(str(error)) from None

    def _check_text_sizes(self):
        size = sum(part.config.hidden_size for part in self.text_parts)
        if size != self.unet_config["cross_attention_dim"]:
            raise self._error(
                f"has a UNet for prompts of size {self.unet_config['cross_attention_dim']} (cross_attention_dim), but "
                f"{' and '.join(self.text_encoders)} give {size}: the parts are of different models."
            )
        if len({part.tokenizer.model_max_length for part in self.text_parts}) > 1:
            raise self._error("has tokenizers of different model_max_length: set it to the same number in both.")

    def longer_than_read(self, prompts):
        """How many prompts are longer than the text encoders read (`int`); the end of those has no effect.

        Raises:
            UsageError: a prompt that cannot be tokenized; the message has no subject.
        """
        return max(part.longer_than_read(prompts) for part in self.text_parts)

    @property
    def prompt_tokens(self):
        """How many tokens of a prompt are read (`int`)."""
        return self.text_parts[0].tokenizer.model_max_length

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def default_resolution(self):
        """The size the UNet was trained at, such as "512" or "832x1216" (width x height, in pixels)."""
        size = self.unet_config["sample_size"]
        if size is None:
            raise self._error("has a UNet without sample_size, so its size is not known: give --resolution.")
        height, width = (size, size) if isinstance(size, int) else size
        return f"{width * self.vae_scale_factor}x{height * self.vae_scale_factor}"

    def buckets(self, resolution):
        """The image sizes to train at (`list[Bucket]`).

        Args:
            resolution (`list[str]`): "1024" or "832x1216" (width x height); empty for the teacher's own size.

        Raises:
            UsageError: no such size, or one that the VAE cannot take.
        """
        return [self._bucket(text) for text in resolution or [self.default_resolution]]

    def _bucket(self, text):
        width, height = pixels(text)
        factor = self.vae_scale_factor
        if width % factor or height % factor:
            raise UsageError(f"--resolution {text} must be a multiple of {factor}, the VAE's factor.")
        latent_shape = (self.latent_channels, height // factor, width // factor)
        return Bucket(latent_shape, self._size_conditioning(height, width))

    def _size_conditioning(self, height, width):
        """What the UNet is conditioned on of the image's size."""
        return {}

    def meta_inputs(self, bucket, n, dtype):
        """Arguments of a forward of the UNet on n samples, without data, on the meta device."""
        conditioning = Conditioning(torch.zeros(1, self.prompt_tokens, self.unet_config["cross_attention_dim"]))
        conditioning = conditioning.told({**self._pooled_example(), **bucket.added}).to(dtype=dtype)
        sample, t = torch.zeros(n, *bucket.latent_shape, dtype=dtype, device="meta"), torch.zeros(n, device="meta")
        return {"sample": sample, "timestep": t, **conditioning.expand(n).to("meta").kwargs()}

    def _pooled_example(self):
        return {}

    def check_timestep(self, timestep):
        if not 0 <= timestep < self.schedule.num_train_timesteps:
            last = self.schedule.num_train_timesteps - 1
            raise UsageError(f"--conditioning_timestep {timestep} is outside of the teacher's schedule, 0 to {last}.")
        alpha, _ = self.schedule.alpha_sigma(timestep, torch.zeros(1))
        if self.schedule.prediction_type == "epsilon" and alpha == 0:
            raise UsageError(
                f"--conditioning_timestep {timestep} is pure noise (zero terminal SNR), which an epsilon-prediction "
                "teacher cannot start from: take an earlier one."
            )

    def load_unet(self, dtype=torch.float32):
        """The UNet, frozen, in eval mode."""
        return self.source.model(UNet2DConditionModel, "unet", dtype=dtype).eval()

    def load_encoder(self, device, dtype=torch.float32):
        """A function from prompts (`list[str]`) to their `Conditioning`, by the pipeline's own text encoder."""
        others = ("unet", "vae", "safety_checker", "feature_extractor", "image_encoder")
        parts = {name: None for name in others if name in self.source.index}
        parts |= {name: self.source.text_encoder(cls, name, dtype) for name, cls in self.text_encoders.items()}
        pipeline = self.source.load("tokenizer", self.pipeline_class.from_pretrained, **parts).to(device)

        @torch.no_grad()
        def encode(prompts):
            with without_truncation_warnings():
                return self._encode(pipeline, prompts)

        return encode

    def _encode(self, pipeline, prompts):
        return Conditioning(pipeline.encode_prompt(prompts, pipeline.device, 1, False)[0])

    def count_text_parameters(self):
        """Of all text encoders; no weights are loaded."""
        count = 0
        for part, cls in zip(self.text_parts, self.text_encoders.values()):
            with torch.device("meta"):
                count += sum(parameter.numel() for parameter in cls(part.config).parameters())
        return count

    def load_vae(self):
        """The VAE, on the CPU. `decode` loads it too; a broken one should be found before the training."""
        return self._decoder.load()

    def decode(self, latents):
        """Latents (n, c, h, w) to images (n, 3, H, W) in [0, 1], float32 on the CPU, where the VAE goes back to."""
        return self._decoder(latents)

    @torch.no_grad()
    def sample(self, unet, noise, conditioning, empty, steps, guidance_scale=1.0):
        """DDIM (trailing spacing) from `noise` (n, c, h, w) to latents of the same shape, float32.

        It starts at the last timestep, but of an epsilon prediction at one that is not nearly pure noise.

        Args:
            unet: the teacher (adapters off).
            conditioning (`Conditioning`): n rows.
            empty (`Conditioning`): one row, the empty prompt.
            steps (`int`): UNet evaluations (twice as many forwards' work with guidance).
        """
        scheduler = sampler(self.scheduler_config, self.schedule.prediction_type, steps)
        scheduler.set_timesteps(steps, device=noise.device)
        x, dtype, n = noise.float(), next(unet.parameters()).dtype, len(noise)
        for t in scheduler.timesteps:
            if guidance_scale == 1:
                output = unet(x.to(dtype), t, **conditioning.kwargs()).sample.float()
            else:
                both = empty.expand(n).cat(conditioning)
                output = guide(
                    *unet(torch.cat([x, x]).to(dtype), t, **both.kwargs()).sample.float().chunk(2), guidance_scale
                )
            x = scheduler.step(output, t, x).prev_sample
        return x


class StableDiffusionXLTeacher(StableDiffusionTeacher):
    """A `StableDiffusionXLPipeline` to distill: both text encoders, the pooled embedding, and the size as time_ids."""

    pipeline_class = StableDiffusionXLPipeline
    text_encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    addition_embed_type = "text_time"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._zeros_for_empty = self.source.index.get("force_zeros_for_empty_prompt", True)

    def _text_part(self, encoder, kind):
        if (self.source.index.get(encoder) or (None,))[0] is None:
            raise self._error(f"has no {encoder} (a refiner?): take the base model.")
        return super()._text_part(encoder, kind)

    def _check_text_sizes(self):
        super()._check_text_sizes()
        if self.unet_config["addition_time_embed_dim"] is None:
            raise self._error("has no valid unet/ config: addition_time_embed_dim is missing.")
        pooled, given = self._pooled_size(), self.text_parts[-1].config.projection_dim
        if pooled != given:
            raise self._error(
                f"has a UNet for pooled prompts of size {pooled}, but text_encoder_2 gives {given}: the parts are of "
                "different models."
            )

    def _encode(self, pipeline, prompts):
        device = pipeline.text_encoder.device
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        conditioning = Conditioning(embeds, {"text_embeds": pooled})
        if self._zeros_for_empty:  # as the pipeline has it for the negative prompt that nobody gave
            empty = torch.tensor([prompt == "" for prompt in prompts], device=device)
            conditioning = conditioning.where(empty, conditioning.map(torch.zeros_like))
        return conditioning

    def _pooled_size(self):
        config = self.unet_config
        return config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]

    def _pooled_example(self):
        return {"text_embeds": torch.zeros(1, self._pooled_size())}

    def _size_conditioning(self, height, width):
        """`time_ids` of an image of this very size, not cropped: original size, crop, target size."""
        return {"time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)}
