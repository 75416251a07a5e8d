# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of DisBack: functions of tensors, without networks or files."""

from .guidance import classifier_free_guidance, guided_output
from .losses import denoising_loss, distribution_matching_gradient, surrogate_loss
from .noise import NoiseSchedule


__all__ = [
    "NoiseSchedule",
    "classifier_free_guidance",
    "denoising_loss",
    "distribution_matching_gradient",
    "guided_output",
    "surrogate_loss",
]
