# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Whether a pipeline was distilled to a few steps before, as far as its configs say. It cannot be a teacher then.

The output of a distilled network is not a score, so nothing useful can be distilled from it.
"""

import re


FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
FEW_STEP_MODELS = re.compile(
    r"stabilityai/sd(xl)?-turbo|bytedance/(sdxl-lightning|hyper-sd)|simianluo/lcm_\S+|latent-consistency/\S+|"
    r"tianweiy/dmd2?|h1t/tcd-\S+|openai/diffusers-c[dt]_\S+",
    re.IGNORECASE,
)
WORDS = re.compile(
    r"(?<![a-z])(turbo|lightning|hyper(?!-?real)|lcm|tcd|dmd2?|c[dt]_\w+|one-?step|[1248]-?steps?)(?![a-z])",
    re.IGNORECASE,
)


def signs_of_distillation(
    source: str, index: dict, unet_config: dict, scheduler_config: dict, has_our_config: bool
) -> tuple[str | None, str | None]:
    """What the files say for certain, and what only the name or the scheduler suggests.

    Args:
        source (`str`): folder or Hub id.
        index (`dict`): model_index.json.
        unet_config (`dict`), scheduler_config (`dict`).
        has_our_config (`bool`): whether there is a disback_config.json.
    """
    if has_our_config:
        return "is a one-step student of DisBack (it has a disback_config.json)", None
    if unet_config.get("time_cond_proj_dim"):
        return "has a guidance-distilled UNet, as LCMs have (time_cond_proj_dim)", None
    if scheduler_config.get("_class_name") in FEW_STEP_SCHEDULERS:
        return f"is a few-step model: it has an {scheduler_config['_class_name']}", None
    origins = [config.get("_name_or_path") or "" for config in (index, unet_config)]
    for name in (source, *origins):
        if FEW_STEP_MODELS.fullmatch(str(name).strip("/")):
            return f"is a few-step model, {name}", None
    for name in (source, *origins):
        if found := WORDS.search(re.split(r"[/\\]", str(name).rstrip("/"))[-1]):
            return None, f'its name, {name}, has "{found[0]}" in it'
    kind, spacing = str(scheduler_config.get("_class_name")), scheduler_config.get("timestep_spacing")
    if kind.startswith("Euler") and spacing == "trailing" and not scheduler_config.get("rescale_betas_zero_snr"):
        return None, f'it has an {kind} with timestep_spacing "trailing", as Turbo and Lightning models have'
    return None, None
