# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Generating with a distilled student."""

from . import image_to_image  # noqa: F401  # makes our pipelines known to diffusers' AutoPipelines
from .pipeline_ddpm import DisBackDDPMPipeline
from .pipeline_disback import DisBackPipeline
from .pipeline_disback_xl import DisBackXLPipeline
from .pipeline_edm import DisBackEDMPipeline


__all__ = ["DisBackDDPMPipeline", "DisBackEDMPipeline", "DisBackPipeline", "DisBackXLPipeline"]
