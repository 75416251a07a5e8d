# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A family in one file: points of the plane, unconditional, with a network of ten lines."""

import json

import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from disback_diffusers.errors import UsageError
from disback_diffusers.models.families.base import Family
from disback_diffusers.models.sizes import Bucket


PIXELS, EXTENT = 16, 4.0  # of the pictures: a point at its place


class PointNetwork(ModelMixin, ConfigMixin):
    """Predicts the noise in points (n, 2) at timesteps (n,)."""

    @register_to_config
    def __init__(self, width: int = 64):
        super().__init__()
        layers = [nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x_t, t):
        angle = t[:, None].to(x_t.dtype) * (torch.pi / 1000)
        return self.layers(torch.cat([x_t, angle.sin(), angle.cos()], dim=1))


class Points(Family):
    """Samples are points (n, 2)."""

    pipeline_name = "PointsPipeline"
    network_class = PointNetwork
    lora_targets = {"all": ("layers.0", "layers.2", "layers.4")}

    def call(self, network, x_t, t, conditions):
        return network(x_t, t)

    def buckets(self, resolution):
        if resolution:
            raise UsageError(f"{resolution[0]}: points have no size: leave it out.")
        return [Bucket((2,))]

    def decode(self, x0):
        images = torch.ones(len(x0), 3, PIXELS, PIXELS)
        places = ((x0.float() / EXTENT + 1) / 2 * PIXELS).long().clamp(0, PIXELS - 1)
        images[torch.arange(len(x0)), :, places[:, 1], places[:, 0]] = 0
        return images

    @torch.no_grad()
    def sample(self, teacher, z, conditions, empty, steps, guidance_scale=1.0, scheduler=None):
        ddim, x_t = DDIMScheduler.from_config(self.scheduler_config), z
        ddim.set_timesteps(steps)
        for t in ddim.timesteps:
            x_t = ddim.step(teacher.output(x_t, t.expand(len(z)), conditions), t, x_t).prev_sample
        return x_t


def two_clouds(n, generator):
    """Points (n, 2) around (-2, 0) and (2, 0)."""
    side = torch.randint(2, (n, 1), generator=generator) * 4.0 - 2
    return 0.3 * torch.randn(n, 2, generator=generator) + torch.cat([side, torch.zeros(n, 1)], dim=1)


def save_points_teacher(folder, steps=1500):
    """Train the network on `two_clouds` and save it as a pipeline's folder."""
    scheduler = DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PointNetwork()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        x0, t = two_clouds(256, generator), torch.randint(1000, (256,), generator=generator)
        noise = torch.randn(256, 2, generator=generator)
        loss = (network(scheduler.add_noise(x0, noise, t), t) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PointsPipeline"}))
    return folder
