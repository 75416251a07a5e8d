# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Diffusers' `UNet2DModel`, whose training does not wait for Python."""

import diffusers
import torch


class UNet2DModel(diffusers.UNet2DModel):
    """Under the same name, as that is what config.json says.

    Its forward needs its own dtype, once or twice. Diffusers looks through all modules for it, of which adapters add
    thousands.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Of its first parameter."""
        return next(self.parameters()).dtype
