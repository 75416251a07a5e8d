# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The boundary conditions of a latent consistency model (Luo et al., 2023)."""

import torch


SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # as in diffusers' LCMScheduler


def boundary_scalings(timestep: float | torch.Tensor) -> tuple:
    """c_skip and c_out of a latent consistency model, whose sample is c_skip x_t + c_out x0.

    Args:
        timestep (`float` or `torch.Tensor` of any shape): in 0 .. T-1.

    Returns:
        two numbers, or two tensors of the shape of `timestep`.
    """
    t = timestep * TIMESTEP_SCALING
    return SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2), t / (t**2 + SIGMA_DATA**2) ** 0.5
