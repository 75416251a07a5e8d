# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Generating with a distilled student."""

from .pipeline_disback import DisBackPipeline
from .pipeline_disback_xl import DisBackXLPipeline


__all__ = ["DisBackPipeline", "DisBackXLPipeline"]
