# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Card templates, read as package data of `disback_diffusers.model_cards`."""
