# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Roles on the tiny UNet, for the tests of what stands on them."""

import torch
from tiny_models import LATENT_SHAPE, TEXT_SIZE, build_sd_unet

from disback_diffusers.models.lora_targets import ALL_TARGETS
from disback_diffusers.models.roles import Roles


TARGETS = {"rank": 4, "alpha": 8, "targets": ALL_TARGETS}


def build(*names, dtype=torch.float32, **lora):
    """Roles with random weights, none of which is therefore the teacher, and no zero hides a missing gradient."""
    roles = Roles(build_sd_unet().to(dtype))
    for seed, name in enumerate(names):
        roles.add(name, **{**TARGETS, **lora})
        roles.randomize(name, seed)
    return roles


def run(roles_or_unet, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(2, *LATENT_SHAPE, generator=generator).to(dtype)
    text = torch.randn(2, 7, TEXT_SIZE, generator=generator).to(dtype)
    unet = getattr(roles_or_unet, "network", roles_or_unet)
    return unet(x_t, torch.tensor([399, 20]), text).sample


def snapshot(roles, name):
    return {key: value.clone() for key, value in roles.state_dict(name).items()}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
