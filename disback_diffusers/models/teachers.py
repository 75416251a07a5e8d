# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Teachers: what is known of a pipeline folder or Hub repository before, and after, its weights are loaded."""

import inspect
import os

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..diffusion.losses import guide
from ..diffusion.noise import NoiseSchedule
from ..errors import UsageError, one_line
from .conditioning import Bucket, Conditioning
from .embedded import resolve


TOKENS = 77  # of a prompt
DECODED_TOGETHER = 2 * 64 * 64  # positions of latents that the VAE decodes at once: two images of 512x512


class StableDiffusionTeacher:
    """A `StableDiffusionPipeline` to distill: SD 1.x and 2.x, epsilon or v prediction, any scheduler config.

    The constructor reads the configs only (a few kB) and checks them; weights come with the `load_*` methods.

    Args:
        name (`str`): folder, Hub id, or "embedded".
        revision (`str`, *optional*), variant (`str`, *optional*): as in `from_pretrained`.
        vae (`str`, *optional*): folder or Hub id of another VAE, to decode with.

    Raises:
        UsageError: no such pipeline, another kind of pipeline, or one that cannot be distilled.
    """

    pipeline_class = StableDiffusionPipeline
    text_encoders = {"text_encoder": CLIPTextModel}

    def __init__(self, name, revision=None, variant=None, vae=None):
        self.name, self.path, self.vae_name = name, resolve(name), vae
        self.hub = {"revision": revision}
        self.variant = variant
        self._check_local()
        self._index, self.commit = self._load(
            "model_index.json", DiffusionPipeline.load_config, return_commit_hash=True
        )
        kind = self._index.get("_class_name", "model of no known class")
        if kind != self.pipeline_class.__name__:
            raise self._error(
                f"is a {kind}; this script distills a {self.pipeline_class.__name__}: take one, or another script."
            )
        self.unet_config = self._config(UNet2DConditionModel, "unet")
        self.vae_config = self._config(AutoencoderKL, "vae")
        self.scheduler_config = self._load("scheduler/ config", DDIMScheduler.load_config, subfolder="scheduler")
        self.schedule = self._read_schedule()
        self.latent_channels = self.unet_config["in_channels"]
        self.vae_scale_factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        if self.latent_channels != self.vae_config["latent_channels"]:
            raise self._error(
                f"has a UNet of {self.latent_channels} input channels for latents of "
                f"{self.vae_config['latent_channels']} (an inpainting or image-conditioned model): take the plain "
                "text-to-image model."
            )
        if self.unet_config.get("time_cond_proj_dim"):
            raise self._error(
                "is a guidance-distilled (LCM) UNet, whose output is no score: take the model it came from."
            )
        self._vae = None
        if vae:
            self._check_other_vae()

    def _error(self, message):
        return UsageError(f"--pretrained_teacher_model {self.name} {message}")

    def _config(self, cls, subfolder):
        config = self._load(f"{subfolder}/ config", cls.load_config, subfolder=subfolder)
        kind = config.get("_class_name")
        if kind not in (None, cls.__name__):
            raise self._error(f"has a {kind} in {subfolder}/: only a {cls.__name__} is supported there.")
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {**{p.name: p.default for p in parameters if p.default is not p.empty}, **config}

    def _check_local(self):
        looks_local = self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or os.path.exists(self.path)
        if looks_local and not os.path.isdir(self.path):
            raise self._error("is no folder: give a pipeline folder or a Hub id.")

    def _read_schedule(self):
        try:
            schedule = NoiseSchedule.from_scheduler(self.scheduler_config)
        except UsageError as error:
            raise self._error(f"has a scheduler/ that this package cannot distill: {error}") from None
        if schedule.num_train_timesteps is None:
            kind = self.scheduler_config["_class_name"]
            raise self._error(f"has a {kind}: only schedulers with whole timesteps are supported.")
        return schedule

    def _load(self, what, load, **kwargs):
        """`load(path, ...)`, any failure told in one line."""
        try:
            return load(self.path, **self.hub, **kwargs)
        except UsageError:
            raise
        except Exception as error:  # missing, truncated or unreadable files and connection errors, of four libraries
            raise self._error(f"has no readable {what}: {one_line(error)}") from None

    def _load_model(self, cls, subfolder, **kwargs):
        options = {"subfolder": subfolder, "variant": self.variant, "use_safetensors": True, **kwargs}
        model = self._load(f"{subfolder}/", cls.from_pretrained, **options)
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise self._error(f"lacks {missing[0]} in {subfolder}/ (and {len(missing) - 1} more): download it again.")
        return model.requires_grad_(False)

    def _load_text_encoder(self, cls, subfolder, dtype):
        options = {"subfolder": subfolder, "variant": self.variant, "use_safetensors": True, "dtype": dtype}
        model, info = self._load(f"{subfolder}/", cls.from_pretrained, output_loading_info=True, **options)
        if missing := sorted(info["missing_keys"]):  # which transformers would draw at random
            raise self._error(f"lacks {missing[0]} in {subfolder}/ (and {len(missing) - 1} more): download it again.")
        return model

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def default_resolution(self):
        """Pixels; the size the UNet was trained at."""
        size = self.unet_config["sample_size"]
        return (size if isinstance(size, int) else size[0]) * self.vae_scale_factor

    def buckets(self, resolution):
        """The image sizes to train at (`list[Bucket]`).

        Args:
            resolution (`list[str]`): "1024" or "832x1216" (width x height); empty for the teacher's own size.

        Raises:
            UsageError: no such size, or one that the VAE cannot take.
        """
        return [self._bucket(text) for text in resolution or [str(self.default_resolution)]]

    def _bucket(self, text):
        size = [int(part) for part in text.lower().split("x") if part.isascii() and part.isdigit()]
        if len(size) != text.lower().count("x") + 1 or len(size) > 2 or 0 in size:
            raise UsageError(f"--resolution {text} must be pixels, such as 1024 or 832x1216 (width x height).")
        width, height = size[0], size[-1]
        factor = self.vae_scale_factor
        if width % factor or height % factor:
            raise UsageError(f"--resolution {text} must be a multiple of {factor}, the VAE's factor.")
        latent_shape = (self.latent_channels, height // factor, width // factor)
        return Bucket(latent_shape, self._size_conditioning(height, width))

    def _size_conditioning(self, height, width):
        """What the UNet is told of the image's size."""
        return {}

    def meta_inputs(self, bucket, n, dtype):
        """Arguments of a forward of the UNet on n samples, without data, on the meta device."""
        conditioning = Conditioning(torch.zeros(1, TOKENS, self.unet_config["cross_attention_dim"]))
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
        return self._load_model(UNet2DConditionModel, "unet", dtype=dtype).eval()

    def load_encoder(self, device, dtype=torch.float32):
        """A function from prompts (`list[str]`) to their `Conditioning`, by the pipeline's own text encoder."""
        others = ("unet", "vae", "safety_checker", "feature_extractor", "image_encoder")
        parts = {name: None for name in others if name in self._index}
        parts |= {name: self._load_text_encoder(cls, name, dtype) for name, cls in self.text_encoders.items()}
        pipeline = self._load("tokenizer", self.pipeline_class.from_pretrained, **parts).to(device)
        return torch.no_grad()(lambda prompts: self._encode(pipeline, prompts))

    def _encode(self, pipeline, prompts):
        return Conditioning(pipeline.encode_prompt(prompts, pipeline.device, 1, False)[0])

    def count_text_parameters(self):
        """Of all text encoders; no weights are loaded."""
        count = 0
        for name, cls in self.text_encoders.items():
            config = self._load(f"{name}/ config", cls.config_class.from_pretrained, subfolder=name)
            with torch.device("meta"):
                count += sum(parameter.numel() for parameter in cls(config).parameters())
        return count

    def load_vae(self):
        """The VAE, on the CPU; `decode` loads it too, but a broken one should be told of before the training."""
        if self._vae is None and self.vae_name:
            self._vae = self._other_vae(AutoencoderKL.from_pretrained, use_safetensors=True).requires_grad_(False)
        elif self._vae is None:
            self._vae = self._load_model(AutoencoderKL, "vae")
        return self._vae

    def _check_other_vae(self):
        """By its config alone."""
        config = self._other_vae(AutoencoderKL.load_config)
        theirs = config.get("latent_channels", 4), len(config.get("block_out_channels", (64,)))
        if theirs != (self.latent_channels, len(self.vae_config["block_out_channels"])):
            raise UsageError(
                f"--pretrained_vae_model_name_or_path {self.vae_name} has {theirs[0]} latent channels and {theirs[1]} "
                f"blocks, the teacher's VAE {self.latent_channels} and {len(self.vae_config['block_out_channels'])}: "
                "it is of another kind of model."
            )

    def _other_vae(self, load, **options):
        subfolder = "vae" if os.path.isdir(os.path.join(self.vae_name, "vae")) else None  # a whole pipeline's, too
        try:
            return load(self.vae_name, subfolder=subfolder, **options)
        except Exception as error:  # as in `_load`
            if isinstance(error.__context__, LocalEntryNotFoundError):
                error = error.__context__  # no network; diffusers says that there is no such file
            raise UsageError(f"--pretrained_vae_model_name_or_path {self.vae_name}: {one_line(error)}") from None

    @torch.no_grad()
    def decode(self, latents):
        """Latents (n, c, h, w) to images (n, 3, H, W) in [0, 1], float32 on the CPU, where the VAE goes back to."""
        self.load_vae()
        self._vae.to(latents.device)
        scaled = latents.float() / self._vae.config.scaling_factor
        together = max(1, DECODED_TOGETHER // scaled[0, 0].numel())
        images = torch.cat([self._vae.decode(part).sample.cpu() for part in scaled.split(together)])
        self._vae.to("cpu")
        return (images / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def sample(self, unet, noise, conditioning, empty, steps, guidance_scale=1.0):
        """DDIM (trailing spacing) from `noise` (n, c, h, w) to latents of the same shape, float32.

        Args:
            unet: the teacher (adapters off).
            conditioning (`Conditioning`): n rows.
            empty (`Conditioning`): one row, the empty prompt.
            steps (`int`): UNet evaluations (twice as many forwards' work with guidance).
        """
        scheduler = DDIMScheduler.from_config(self.scheduler_config, timestep_spacing="trailing", clip_sample=False)
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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        missing = [name for name in self.text_encoders if self._index.get(name, (None, None))[0] is None]
        if missing:
            raise self._error(f"has no {missing[0]} (a refiner?): take the base model.")
        if self.unet_config.get("addition_embed_type") != "text_time":
            raise self._error("has a UNet that is not told sizes (addition_embed_type): it is no SDXL.")
        self._zeros_for_empty = self._index.get("force_zeros_for_empty_prompt", True)

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

    def _pooled_example(self):
        size = (
            self.unet_config["projection_class_embeddings_input_dim"] - 6 * self.unet_config["addition_time_embed_dim"]
        )
        return {"text_embeds": torch.zeros(1, size)}

    def _size_conditioning(self, height, width):
        """`time_ids` of an image of this very size, not cropped: original size, crop, target size."""
        return {"time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)}
