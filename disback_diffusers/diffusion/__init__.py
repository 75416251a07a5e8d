# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of DisBack: functions of tensors, without networks or files."""

from .losses import denoising_loss, distribution_matching_gradient, guide, surrogate_loss
from .noise import NoiseSchedule


__all__ = ["NoiseSchedule", "denoising_loss", "distribution_matching_gradient", "guide", "surrogate_loss"]
