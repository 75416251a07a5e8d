# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Teachers: what is known of a pipeline folder or Hub repository before, and after, its weights are loaded."""

import inspect
import os

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from ..diffusion.losses import guide
from ..diffusion.noise import NoiseSchedule
from ..errors import UsageError
from .conditioning import Conditioning
from .embedded import resolve


class StableDiffusionTeacher:
    """A `StableDiffusionPipeline` to distill: SD 1.x and 2.x, epsilon or v prediction, any scheduler config.

    The constructor reads the configs only (a few kB) and checks them; weights come with the `load_*` methods.

    Args:
        name (`str`): folder, Hub id, or "embedded".
        revision (`str`, *optional*), variant (`str`, *optional*): as in `from_pretrained`.

    Raises:
        UsageError: no such pipeline, another kind of pipeline, or one that cannot be distilled.
    """

    pipeline_class = StableDiffusionPipeline
    text_encoders = {"text_encoder": CLIPTextModel}

    def __init__(self, name, revision=None, variant=None):
        self.name, self.path = name, resolve(name)
        self.hub = {"revision": revision}
        self.variant = variant
        kind = self._config(DiffusionPipeline).get("_class_name", "model of no known class")
        if kind != self.pipeline_class.__name__:
            raise self._error(
                f"is a {kind}; this script distills a {self.pipeline_class.__name__}: take one, or another script."
            )
        self.unet_config = self._config(UNet2DConditionModel, "unet")
        self.vae_config = self._config(AutoencoderKL, "vae")
        self.scheduler_config = self._config(DDIMScheduler, "scheduler")
        try:
            self.schedule = NoiseSchedule.from_scheduler(self.scheduler_config)
        except UsageError as error:
            raise self._error(f"has a scheduler/ that this package cannot distill: {error}") from None
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

    def _error(self, message):
        return UsageError(f"--pretrained_teacher_model {self.name} {message}")

    def _config(self, cls, subfolder=None):
        what = f"{subfolder}/ config" if subfolder else "model_index.json"
        if self._looks_local() and not os.path.isdir(self.path):
            raise self._error("is no folder: give a pipeline folder or a Hub id.")
        config = self._load(what, cls.load_config, subfolder=subfolder)
        kind = config.get("_class_name")
        if subfolder in ("unet", "vae") and kind not in (None, cls.__name__):
            raise self._error(f"has a {kind} in {subfolder}/: only a {cls.__name__} is supported there.")
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {**{p.name: p.default for p in parameters if p.default is not p.empty}, **config}

    def _looks_local(self):
        return self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or os.path.exists(self.path)

    def _load(self, what, load, **kwargs):
        """`load(path, ...)`, any failure told in one line."""
        try:
            return load(self.path, **self.hub, **kwargs)
        except UsageError:
            raise
        except Exception as error:  # missing, truncated or unreadable files and connection errors, of four libraries
            raise self._error(f"has no readable {what}: {' '.join(str(error).split())[:300]}") from None

    def _load_model(self, cls, subfolder, **kwargs):
        model = self._load(f"{subfolder}/", cls.from_pretrained, subfolder=subfolder, variant=self.variant, **kwargs)
        missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if missing:
            raise self._error(f"lacks {missing[0]} in {subfolder}/ (and {len(missing) - 1} more): download it again.")
        return model.requires_grad_(False)

    def _load_text_encoder(self, cls, subfolder, dtype):
        options = {"subfolder": subfolder, "variant": self.variant, "dtype": dtype, "output_loading_info": True}
        model, info = self._load(f"{subfolder}/", cls.from_pretrained, **options)
        if missing := sorted(info["missing_keys"]):  # which transformers would draw at random
            raise self._error(f"lacks {missing[0]} in {subfolder}/ (and {len(missing) - 1} more): download it again.")
        return model

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def default_resolution(self):
        """Pixels; the size the UNet was trained at."""
        size = self.unet_config["sample_size"]
        return (size if isinstance(size, int) else size[0]) * self.vae_scale_factor

    def latent_shape(self, resolution=None):
        """(channels, height, width) of the latents of an image of `resolution` pixels."""
        resolution = resolution or self.default_resolution
        if resolution % self.vae_scale_factor:
            raise UsageError(
                f"--resolution {resolution} must be a multiple of {self.vae_scale_factor}, the VAE's factor."
            )
        size = resolution // self.vae_scale_factor
        return self.latent_channels, size, size

    def check_timestep(self, timestep):
        if not 0 <= timestep < self.schedule.num_train_timesteps:
            last = self.schedule.num_train_timesteps - 1
            raise UsageError(f"--conditioning_timestep {timestep} is outside of the teacher's schedule, 0 to {last}.")

    def load_unet(self, dtype=torch.float32):
        """The UNet, frozen, in eval mode."""
        return self._load_model(UNet2DConditionModel, "unet", dtype=dtype).eval()

    def load_encoder(self, device, dtype=torch.float32):
        """A function from prompts (`list[str]`) to their `Conditioning`, by the pipeline's own text encoder."""
        parts = {"unet": None, "vae": None, "safety_checker": None, "feature_extractor": None, "image_encoder": None}
        parts |= {name: self._load_text_encoder(cls, name, dtype) for name, cls in self.text_encoders.items()}
        pipeline = self._load("tokenizer", self.pipeline_class.from_pretrained, **parts).to(device)

        @torch.no_grad()
        def encode(prompts):
            return Conditioning(pipeline.encode_prompt(prompts, device, 1, False)[0])

        return encode

    def load_vae(self):
        """On the CPU; `decode` does it too, but a broken VAE should be told before the training and not after it."""
        if self._vae is None:
            self._vae = self._load_model(AutoencoderKL, "vae")

    @torch.no_grad()
    def decode(self, latents):
        """Latents (n, c, h, w) to images (n, 3, H, W) in [0, 1], float32 on the CPU, where the VAE goes back to."""
        self.load_vae()
        self._vae.to(latents.device)
        scaled = latents.float() / self._vae.config.scaling_factor
        images = torch.cat([self._vae.decode(part).sample.cpu() for part in scaled.split(8)])
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
