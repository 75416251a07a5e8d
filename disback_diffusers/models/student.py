# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The one-step generator."""

from contextlib import contextmanager, nullcontext

import torch
from diffusers.training_utils import EMAModel

from .lcm_lora import boundary_scalings


class Student:
    """G: noise and a prompt in, x0 out, in one UNet evaluation at the conditioning timestep.

    A LoRA student is the role "student" on the shared base; a full student is a float32 UNet of its own. Both start
    as the teacher itself, unless a full one is given another UNet.

    Args:
        roles (`Roles`): the shared base, with the role "student" for a LoRA student.
        schedule (`NoiseSchedule`).
        timestep (`int`): the conditioning timestep t*.
        unet (`UNet2DConditionModel`, *optional*): the UNet of a full student.
        ema_decay (`float`): decay of the moving average of the weights.
        boundary (`bool`): with the boundary conditions of a latent consistency model (an LCM-LoRA).
    """

    role = "student"

    def __init__(self, roles, schedule, timestep, unet=None, ema_decay=0.99, boundary=False):
        self.roles, self.schedule, self.timestep = roles, schedule, timestep
        self.boundary = boundary
        self.full, self.unet = unet is not None, unet or roles.unet
        self.ema = EMAModel(self.parameters(), decay=ema_decay)

    def parameters(self):
        return list(self.unet.parameters()) if self.full else self.roles.parameters(self.role)

    def __call__(self, noise, conditioning):
        """Noise (n, c, h, w), standard normal, to x0 of the same shape, float32."""
        return self.denoise(noise, torch.full((len(noise),), self.timestep, device=noise.device), conditioning)

    def denoise(self, x_t, t, conditioning):
        """x_t (n, c, h, w) at timesteps t (n,) to x0 of the same shape, float32."""
        dtype = next(self.unet.parameters()).dtype
        with nullcontext() if self.full else self.roles(self.role):
            output = self.unet(x_t.to(dtype), t, **conditioning.kwargs()).sample
        x0 = self.schedule.to_x0(output, x_t, t)
        if not self.boundary:
            return x0
        skip, out = boundary_scalings(t.float().view(-1, 1, 1, 1))
        return skip * x_t + out * x0

    def update_ema(self):
        self.ema.step(self.parameters())

    @contextmanager
    def averaged(self):
        """Within, the student has its averaged weights."""
        self.ema.store(self.parameters())
        self.ema.copy_to(self.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.parameters())

    # -----------------------------------------------------------------------------------------------------------------

    def state_dict(self):
        return self.unet.state_dict() if self.full else self.roles.state_dict(self.role)

    def load_state_dict(self, state, source):
        if self.full:
            self.unet.load_state_dict(state)
        else:
            self.roles.load_state_dict(self.role, state, source=source)
