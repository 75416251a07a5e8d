# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Between images and latents, by the teacher's VAE or another one."""

import math
from collections.abc import Callable
from numbers import Real

import torch
from diffusers import AutoencoderKL

from ..errors import UsageError, one_line
from .pipeline_files import PipelineFiles, refuse_single_file
from .source import ModelSource


TOGETHER = 2 * 64 * 64  # positions of latents that the VAE takes at once: two images of 512x512


def check_scaling_factor(config: dict, error: Callable[[str], UsageError]) -> None:
    """Raise `error` for a VAE's config whose scaling_factor, by which latents are divided, is not a number above 0."""
    factor = config.get("scaling_factor")
    if not isinstance(factor, Real) or isinstance(factor, bool) or not 0 < factor < math.inf:
        raise error(f"has a VAE with scaling_factor {factor!r}: it must be a number greater than 0.")


def _from_config(*args, **kwargs):
    return AutoencoderKL.from_config(AutoencoderKL.load_config(*args, **kwargs))


class Autoencoder:
    """The VAE. Between calls it is on the CPU; its weights are loaded when needed.

    Args:
        source (`ModelSource`): of the teacher.
        config (`dict`): of the teacher's VAE.
    """

    def __init__(self, source: ModelSource, config: dict):
        self.source, self.config, self.other, self._vae = source, config, None, None

    def use(self, other: str) -> None:
        """Decode with another VAE than the teacher's.

        Args:
            other (`str`): folder or Hub id of a VAE, or of a pipeline with one.

        Raises:
            UsageError: it is no VAE, or one of another kind of model.
        """
        self.other = other
        self._check_other()

    def load(self) -> AutoencoderKL:
        """The VAE, on the CPU, float32."""
        if self._vae is None and self.other:
            options = {"variant": self._variant, "use_safetensors": True}
            self._vae = self._of_other(AutoencoderKL.from_pretrained, **options).requires_grad_(False)
        elif self._vae is None:
            self._vae = self.source.model(AutoencoderKL, "vae")
        return self._vae

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (n, c, h, w) to images (n, 3, H, W) in [0, 1], float32 on the CPU. Works on the latents' device."""
        vae = self.load().to(latents.device)
        scaled = latents.float() / vae.config.scaling_factor
        together = max(1, TOGETHER // scaled[0, 0].numel())
        images = torch.cat([vae.decode(part).sample.cpu() for part in scaled.split(together)])
        vae.to("cpu")
        return (images / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, H, W) in [0, 1] to latents (n, c, h, w), float32 on the CPU: the mean of the posterior.

        Works on the images' device.
        """
        vae = self.load().to(images.device)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        together = max(1, TOGETHER * factor**2 // images[0, 0].numel())
        parts = (vae.encode(part.float() * 2 - 1).latent_dist.mean.cpu() for part in images.split(together))
        latents = torch.cat(list(parts)) * vae.config.scaling_factor
        vae.to("cpu")
        return latents

    def _check_other(self):
        """By its config and the names of its files; of a whole pipeline its own VAE is taken."""
        refuse_single_file(self.other, "AutoencoderKL")
        files = PipelineFiles(self.other)
        self._subfolder = files.place("vae")
        with torch.device("meta"):
            config = dict(self._of_other(_from_config).config)
        check_scaling_factor(config, lambda message: UsageError(f"{self.other} {message}"))
        theirs = config.get("latent_channels", 4), len(config.get("block_out_channels", (64,)))
        ours = self.config["latent_channels"], len(self.config["block_out_channels"])
        if theirs != ours:
            raise UsageError(
                f"{self.other} has {theirs[0]} latent channels and {theirs[1]} blocks, the teacher's VAE "
                f"{ours[0]} and {ours[1]}: it is of another kind of model."
            )
        self._variant = files.variant(self._subfolder, self.source.variant, or_the_only_one=True)

    def _of_other(self, load, **options):
        try:
            return load(self.other, subfolder=self._subfolder, **options)
        except Exception as error:  # of four libraries
            raise UsageError(f"{self.other} cannot be loaded: {one_line(error)}") from None
