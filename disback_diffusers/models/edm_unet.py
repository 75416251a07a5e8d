# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The UNet of EDM's DDPM++ and NCSN++ teachers (Karras et al., 2022; Song et al., 2021), made of diffusers' blocks."""

import inspect
import math
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D, downsample_2d, upsample_2d
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn


FILTERS = {"box": (1, 1), "fir": (1, 3, 3, 1)}  # of DDPM++ and of NCSN++, before halving and after doubling a size
EPS = 1e-6
SUM_SCALE = math.sqrt(2)  # a sum of two signals is divided by it
FOURIER_SCALE = 16


def _groups(channels):
    return min(32, channels // 4)


def _norm(channels):
    return nn.GroupNorm(_groups(channels), channels, eps=EPS)


class _FourierTime(nn.Module):
    """Sines and cosines of the time at random frequencies, which are not trained."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("frequencies", FOURIER_SCALE * torch.randn(channels // 2))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Times `(n,)` to `(n, channels)`."""
        angles = 2 * math.pi * t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class _ResidualBlock(nn.Module):
    """Two convolutions with the embedding added in between, and self-attention where it is wanted."""

    def __init__(self, in_channels, out_channels, embedding, attention=False, resample_filter="box", **resnet):
        super().__init__()
        self.resnet = ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=embedding,
            groups=_groups(in_channels),
            groups_out=_groups(out_channels),
            eps=EPS,
            output_scale_factor=SUM_SCALE,
            kernel="fir" if resample_filter == "fir" else None,
            **resnet,
        )
        self.attention = self._attention(out_channels) if attention else None

    @staticmethod
    def _attention(channels):
        return Attention(
            channels,
            heads=1,
            dim_head=channels,
            bias=True,
            norm_num_groups=_groups(channels),
            eps=EPS,
            residual_connection=True,
            rescale_output_factor=SUM_SCALE,
            _from_deprecated_attn_block=True,
        )

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Features `(n, c, h, w)` and the embedding `(n, size)` to features."""
        x = self.resnet(x, embedding)
        return x if self.attention is None else self.attention(x)


class _ImageBranch(nn.Module):
    """The image beside the features on the way down, at half the size each level.

    "skip": the image itself is halved, and a projection of it is added to the features. "residual": the sum of the
    level before is projected, halved and added (NCSN++).
    """

    def __init__(self, kind, in_channels, out_channels, resample_filter):
        super().__init__()
        self.kind, self.taps = kind, FILTERS[resample_filter]
        half = (len(self.taps) - 1) // 2
        # The filter after it takes in a border of this width, so no padding is left for the filter.
        self.conv = (
            nn.Conv2d(in_channels, out_channels, 1)
            if kind == "skip"
            else nn.Conv2d(in_channels, out_channels, 3, padding=1 + half)
        )

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(n, c, h, w)` and the image `(n, d, 2h, 2w)` to features and the image for the next level."""
        if self.kind == "skip":
            image = downsample_2d(image, kernel=self.taps)
            return x + self.conv(image), image
        taps = torch.tensor(self.taps, dtype=x.dtype, device=x.device) / sum(self.taps)
        image = self.conv(image)
        kernel = torch.outer(taps, taps).expand(image.shape[1], 1, -1, -1).to(image.dtype)
        x = (x + F.conv2d(image, kernel, stride=2, groups=image.shape[1])) / SUM_SCALE
        return x, x


class _ImageHead(nn.Module):
    """Features to an image; where there are several, each level adds its own to the doubled one from below."""

    def __init__(self, channels, out_channels, resample_filter):
        super().__init__()
        self.norm, self.conv = _norm(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.taps = FILTERS[resample_filter]

    def forward(self, x: torch.Tensor, below: torch.Tensor | None) -> torch.Tensor:
        """Features `(n, c, h, w)` and an image of half the size, or None, to an image."""
        image = self.conv(F.silu(self.norm(x)))
        return image if below is None else image + upsample_2d(below, kernel=self.taps)


def _check_choices(config):
    """Raise a ValueError where a setting is none of those of its annotation."""
    for name, parameter in inspect.signature(EDMUNet2DModel.__init__).parameters.items():
        choices = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
        if choices and config[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {config[name]!r}")


class EDMUNet2DModel(ModelMixin, ConfigMixin):
    """DDPM++ or NCSN++. Called as a `UNet2DModel`; its raw output belongs inside EDM's preconditioning.

    Args:
        sample_size (`int`): pixels of a side.
        in_channels, out_channels (`int`): of the images.
        base_channels (`int`): channels of the first convolution.
        channel_multipliers (`list[int]`): channels of each level, from the largest image, in `base_channels`.
        layers_per_block (`int`): residual blocks of a level on the way down; one more on the way up.
        attention_resolutions (`list[int]`): pixels of a side at which there is self-attention.
        dropout (`float`).
        num_class_embeds (`int`, *optional*): classes; None for an unconditional network.
        augment_dim (`int`): size of the augmentation labels; 0 for none.
        time_embedding_type (`str`): "positional" (DDPM++) or "fourier" (NCSN++).
        time_embedding_multiplier, embedding_multiplier (`int`): sizes of the embedding of the time, and of what the
            blocks see of it, in `base_channels`.
        encoder_type (`str`): "standard" (DDPM++), "skip" or "residual" (NCSN++).
        decoder_type (`str`): "standard" or "skip".
        resample_filter (`str`): "box" (DDPM++) or "fir" (NCSN++).
        time_scale (`float`): what the timestep is multiplied by; 0.001 for the times of the consistency models.
    """

    __module__ = "disback_diffusers"  # which a pipeline's index names: importing that is enough to load it
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (2, 2, 2),
        layers_per_block: int = 4,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        num_class_embeds: int | None = None,
        augment_dim: int = 0,
        time_embedding_type: Literal["positional", "fourier"] = "positional",
        time_embedding_multiplier: int = 1,
        embedding_multiplier: int = 4,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Literal["box", "fir"] = "box",
        time_scale: float = 1.0,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        _check_choices(self.config)
        of_time, size = base_channels * time_embedding_multiplier, base_channels * embedding_multiplier
        if time_embedding_type == "fourier":
            self.time_proj = _FourierTime(of_time)
        else:
            self.time_proj = Timesteps(of_time, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time_embedding = TimestepEmbedding(of_time, size)
        self.class_embedding = nn.Embedding(num_class_embeds, of_time) if num_class_embeds else None
        self.augment_embedding = nn.Linear(augment_dim, of_time, bias=False) if augment_dim else None

        shared = {"embedding": size, "resample_filter": resample_filter, "dropout": dropout}
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        sizes = [sample_size >> level for level in range(len(widths))]
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        skips = self._build_encoder(widths, sizes, shared)
        self.bottleneck = nn.Identity()  # a place to see the features between both halves
        self._build_decoder(widths, sizes, shared, skips)

    def _build_encoder(self, widths, sizes, shared):
        """Returns the channels of all that the decoder takes in."""
        config, channels = self.config, self.config.base_channels
        self.encoder, skips, image = nn.ModuleList(), [channels], config.in_channels
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            parts = nn.ModuleDict()
            if level:
                parts["down"] = _ResidualBlock(channels, channels, down=True, use_in_shortcut=True, **shared)
                skips.append(channels)
                if config.encoder_type != "standard":
                    branch = config.encoder_type, image, channels, config.resample_filter
                    parts["image"] = _ImageBranch(*branch)
                    image = channels if config.encoder_type == "residual" else image
            attention, blocks = size in config.attention_resolutions, []
            for _ in range(config.layers_per_block):
                blocks.append(_ResidualBlock(channels, width, attention=attention, **shared))
                channels = width
                skips.append(channels)
            parts["blocks"] = nn.ModuleList(blocks)
            self.encoder.append(parts)
        return skips

    def _build_decoder(self, widths, sizes, shared, skips):
        config, channels = self.config, widths[-1]
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(widths))):
            parts, count = nn.ModuleDict(), config.layers_per_block + 1
            if level == len(widths) - 1:
                enter = [_ResidualBlock(channels, channels, attention=i == 0, **shared) for i in range(2)]
            else:
                enter = [_ResidualBlock(channels, channels, up=True, use_in_shortcut=True, **shared)]
            parts["enter"], blocks = nn.ModuleList(enter), []
            for i in range(count):
                attention = i == count - 1 and sizes[level] in config.attention_resolutions
                blocks.append(_ResidualBlock(channels + skips.pop(), widths[level], attention=attention, **shared))
                channels = widths[level]
            parts["blocks"] = nn.ModuleList(blocks)
            if level == 0 or config.decoder_type == "skip":
                parts["head"] = _ImageHead(channels, config.out_channels, config.resample_filter)
            self.decoder.append(parts)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        class_labels: torch.Tensor | None = None,
        augment_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """The raw output for scaled images.

        Args:
            sample (`torch.Tensor` of shape `(n, c, h, w)`): c_in x_t.
            timestep (`torch.Tensor` of shape `()` or `(n,)`, or `float`): c_noise, ln(sigma) / 4 in EDM.
            class_labels (`torch.Tensor` of shape `(n,)`, *optional*): whole numbers.
            augment_labels (`torch.Tensor` of shape `(n, augment_dim)`, *optional*): None stands for zeros.
            return_dict (`bool`, *optional*): whether to return a `UNet2DOutput` instead of a tuple.

        Raises:
            ValueError: labels for a network without classes, or none for one with classes.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError(f"this network has {self.config.num_class_embeds or 'no'} classes; got {class_labels}")
        embedding = self._embed(sample, timestep, class_labels, augment_labels)
        x, image = self.conv_in(sample), sample
        skips = [x]
        for parts in self.encoder:
            if "down" in parts:
                x = self._run(parts["down"], x, embedding)
                if "image" in parts:
                    x, image = parts["image"](x, image)
                skips.append(x)
            for block in parts["blocks"]:
                x = self._run(block, x, embedding)
                skips.append(x)
        x, output = self.bottleneck(x), None
        for parts in self.decoder:
            for block in parts["enter"]:
                x = self._run(block, x, embedding)
            for block in parts["blocks"]:
                x = self._run(block, torch.cat([x, skips.pop()], dim=1), embedding)
            if "head" in parts:
                output = parts["head"](x, output)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _embed(self, sample, timestep, class_labels, augment_labels):
        t = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).reshape(-1).expand(len(sample))
        embedding = self.time_proj(t * self.config.time_scale).to(sample.dtype)
        if class_labels is not None:
            embedding = embedding + self.class_embedding(class_labels).to(embedding.dtype)
        if augment_labels is not None and self.augment_embedding is not None:
            embedding = embedding + self.augment_embedding(augment_labels)
        return self.time_embedding(embedding)

    def _run(self, block, x, embedding):
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, x, embedding)
        return block(x, embedding)
