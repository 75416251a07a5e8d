# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The head that turns the fake score into a discriminator."""

import torch
from torch import nn


class Discriminator(nn.Module):
    """From the features of a network's mid block to a logit; float32.

    Args:
        channels (`int`): of the features.
        seed (`int`): of its first weights. The global RNG does not change.
    """

    def __init__(self, channels: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                *self._block(channels, stride=1),
                *self._block(channels, stride=2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(channels, 1),
            )

    @staticmethod
    def _block(channels, stride):
        groups = next(groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0)
        return nn.Conv2d(channels, channels, 3, stride, padding=1), nn.GroupNorm(groups, channels), nn.SiLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(n,)` of features `(n, channels, h, w)`; positive where they seem to be of a real sample."""
        return self.layers(features.float()).squeeze(1)
