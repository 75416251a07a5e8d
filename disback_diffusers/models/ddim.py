# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The scheduler the teacher is sampled with."""

import torch
from diffusers import DDIMScheduler


# Below this alpha an epsilon prediction is not used to draw with: its error grows by 1 / alpha, to infinity at zero
# terminal SNR. Stable Diffusion ends at 0.068, DDPM's linear betas at 0.006.
SMALLEST_ALPHA = 0.005


def sampler(scheduler_config: dict, prediction_type: str, steps: int) -> DDIMScheduler:
    """DDIM with trailing spacing, from the last timestep, or for an epsilon prediction from one of enough alpha.

    Args:
        scheduler_config: Of the teacher.
        prediction_type: "epsilon", "v_prediction" or "sample".
        steps: How many the samples will take.
    """
    ddim = DDIMScheduler.from_config(scheduler_config, timestep_spacing="trailing", clip_sample=False)
    alphas = ddim.alphas_cumprod.sqrt()
    count = int((alphas >= SMALLEST_ALPHA).sum()) if prediction_type == "epsilon" else len(alphas)
    if count == len(alphas):
        return ddim
    count = max(count // steps, 1) * steps  # DDIM goes down by whole timesteps
    cut = {"trained_betas": _betas(ddim)[:count], "num_train_timesteps": count}
    return DDIMScheduler.from_config(ddim.config, **cut, rescale_betas_zero_snr=False)


def _betas(scheduler):
    """Those behind its alphas, which `rescale_betas_zero_snr` has changed (`list[float]`)."""
    alphas = scheduler.alphas_cumprod.double()
    return (1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])).tolist()
