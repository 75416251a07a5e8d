# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The noise schedule in the config of a diffusers scheduler."""

import inspect
import math
from collections.abc import Mapping

import diffusers
import torch
from diffusers import SchedulerMixin

from ..errors import UsageError


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# The EDM schedulers have all of these, and that of the consistency models, whose teachers are EDM's.
EDM_SETTINGS = {"sigma_min", "sigma_max", "sigma_data"}
SchedulerOrConfig = SchedulerMixin | Mapping


def full_config(config_or_scheduler: SchedulerOrConfig) -> tuple[dict, str]:
    """The config of a scheduler, with the defaults of its class, and the name of that class.

    Args:
        config_or_scheduler (`SchedulerMixin`, `FrozenDict` or `dict`).

    Raises:
        UsageError: it is neither a scheduler nor a config.
    """
    config, owner = config_or_scheduler, type(config_or_scheduler).__name__
    if isinstance(config, Mapping):
        owner = str(config.get("_class_name", "the scheduler config"))
    elif isinstance(getattr(config, "config", None), Mapping):
        config = config.config
    else:
        raise UsageError(f"expected a diffusers scheduler or its config, got {owner}")
    known = getattr(diffusers, owner, None)
    parameters = inspect.signature(known.__init__).parameters if known else {}
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**defaults, **config}, owner


def alphas(config: dict, owner: str) -> torch.Tensor:
    """alpha(t) = sqrt(cumprod(1 - beta)) of each timestep, `(T,)`, float64.

    Args:
        config (`dict`), owner (`str`): from `full_config`.

    Raises:
        UsageError: flow matching or another unsupported setting; names it and what is supported.
    """
    betas = _betas(config, owner)
    alphas = (1 - betas).cumprod(0).sqrt()
    if config.get("rescale_betas_zero_snr"):
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
    valid = (betas >= 0) & (betas <= 1) & alphas.isfinite() & (alphas < 1)
    if not bool(valid.all()):
        raise UsageError(f"{owner}: betas must be in [0, 1] and the first one above 0")
    return alphas


def _unsupported(config):
    """What in this config makes its noise something else than plain betas, or None."""
    schedule = config.get("beta_schedule")
    if config.get("use_flow_sigmas"):
        return "use_flow_sigmas (flow matching)"
    if config.get("timestep_type") == "continuous":
        return "timestep_type 'continuous'"
    if "snr_shift_scale" in config:
        return "snr_shift_scale"
    if config.get("trained_betas") is not None or schedule == "squaredcos_cap_v2":
        return None
    if schedule in BETA_SCHEDULES:
        known = config.get("beta_start") is not None and config.get("beta_end") is not None
        return None if known else f"beta_schedule {schedule!r} without beta_start and beta_end"
    return f"beta_schedule {schedule!r}" if schedule else "a scheduler without beta_schedule (flow matching, ...)"


def _betas(config, owner):
    if found := _unsupported(config):
        supported = f"beta_schedule {', '.join(BETA_SCHEDULES)}; trained_betas; EDM (EDMEulerScheduler, ...)"
        raise UsageError(f"{owner}: {found} is not supported; supported: {supported}")
    if config.get("trained_betas") is not None:
        return torch.as_tensor(config["trained_betas"], dtype=torch.float64)
    steps = config.get("num_train_timesteps", 1000)
    if config["beta_schedule"] == "squaredcos_cap_v2":
        level = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - b / a, 0.999) for a, b in zip(level, level[1:])], dtype=torch.float64)
    power = 2 if config["beta_schedule"] == "scaled_linear" else 1
    start, end = config["beta_start"] ** (1 / power), config["beta_end"] ** (1 / power)
    return torch.linspace(start, end, steps, dtype=torch.float64) ** power
