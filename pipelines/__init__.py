# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Generating with a distilled student."""

from .pipeline_disback import DisBackPipeline


__all__ = ["DisBackPipeline"]
