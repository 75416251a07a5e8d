# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Checks of what a pipeline is called with, before anything is computed."""

from collections.abc import Sequence
from numbers import Integral

import torch
from diffusers import DiffusionPipeline

from disback_diffusers.errors import UsageError

from .adapters import ADAPTER, acting_adapters


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
ONLY_WITH_GUIDANCE = "the student has learned guidance and makes no unconditional pass in which it could act"


def chosen_timesteps(
    choices: dict[int, list[int]], num_inference_steps: int | None, timesteps: int | Sequence[int] | None
) -> list[int]:
    """The timesteps of a call.

    Args:
        choices (`dict`): the timesteps that the student was trained for, by the number of steps.
        num_inference_steps (`int`, *optional*), timesteps (`int` or a sequence of them, *optional*): as given.

    Raises:
        UsageError: a number of steps or timesteps that the student was not trained for.
    """
    if timesteps is not None:
        try:
            wanted = [int(t) for t in ([timesteps] if isinstance(timesteps, int) else timesteps)]
        except (TypeError, ValueError):
            raise UsageError(f"timesteps={timesteps!r} must be a list of whole numbers.") from None
        if wanted not in choices.values():
            trained = " or ".join(map(str, choices.values()))
            raise UsageError(f"timesteps={wanted}: the student was trained for timesteps={trained}.")
        if num_inference_steps not in (None, len(wanted)):
            raise UsageError(f"num_inference_steps={num_inference_steps} contradicts timesteps={wanted}.")
        return wanted
    steps = 1 if num_inference_steps is None else num_inference_steps
    if not isinstance(steps, int) or steps not in choices:
        *some, last = map(str, choices)
        trained = f"{', '.join(some)} or {last} steps" if some else "1 step"
        raise UsageError(f"num_inference_steps={num_inference_steps!r}: the student was trained for {trained}.")
    return choices[steps]


def without_effect(arguments: dict) -> dict:
    """Refuse what cannot act on a student; accept values that only say so, as a stock call may have them.

    Args:
        arguments (`dict`): of a text-to-image call, by name.

    Returns:
        (`dict`): the other arguments.

    Raises:
        UsageError: guidance, a negative prompt, sigmas, or an earlier end.
    """
    rest = dict(arguments)
    for name, most in (("guidance_scale", 1), ("guidance_rescale", 0)):
        value = rest.pop(name)
        if not isinstance(value, int | float | None):
            raise UsageError(f"{name}={value!r} must be a number.")
        if value is not None and value > most:
            raise UsageError(f"{name}={value}: {ONLY_WITH_GUIDANCE}; leave it out, or give {most}.")
    for name in [name for name in rest if name.startswith("negative_")]:
        value = rest.pop(name)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int | None) and not item for item in values):  # "", None, (0, 0)
            raise UsageError(f"{name}: {ONLY_WITH_GUIDANCE}; leave it out.")
    if not isinstance(rest.pop("eta"), int | float):
        raise UsageError(f"eta={arguments['eta']!r} must be a number; it has no effect on a student.")
    if rest.pop("sigmas") is not None:
        raise UsageError("sigmas: the student was trained for timesteps; leave it out.")
    if rest.pop("denoising_end", None) not in (None, 1):
        raise UsageError(f"denoising_end={arguments['denoising_end']!r}: the student goes to the end; leave it out.")
    return rest


def check_call(pipe: DiffusionPipeline, arguments: dict) -> None:
    """Refuse values that would fail deep inside diffusers, or be taken for others.

    Args:
        pipe: the pipeline that is called.
        arguments (`dict`): of a text-to-image call, by name.

    Raises:
        UsageError: names the argument and the remedy.
    """
    if pipe.unet is None:
        raise UsageError("the pipeline was loaded with unet=None: it can encode prompts, but not draw.")
    images = _check_prompts(arguments["prompt"], arguments["prompt_embeds"])
    if "pooled_prompt_embeds" in arguments and arguments["prompt_embeds"] is not None:
        if arguments["pooled_prompt_embeds"] is None:
            raise UsageError("prompt_embeds needs pooled_prompt_embeds: pipe.encode_prompt(...) returns both.")
    for name in ("height", "width", "clip_skip"):
        if arguments[name] is not None and not _is_count(arguments[name]):
            raise UsageError(f"{name}={arguments[name]!r} must be a whole number greater than 0.")
    number = arguments["num_images_per_prompt"]
    if not _is_count(number):
        raise UsageError(f"num_images_per_prompt={number!r} must be a whole number, at least 1.")
    if arguments["output_type"] not in OUTPUT_TYPES:
        raise UsageError(f"output_type={arguments['output_type']!r} must be one of {', '.join(OUTPUT_TYPES)}.")
    if arguments["ip_adapter_image"] is not None and pipe.unet.encoder_hid_proj is None:
        raise UsageError("ip_adapter_image needs an IP-Adapter: call pipe.load_ip_adapter(...) first.")
    _check_scale(pipe.unet, arguments["cross_attention_kwargs"])
    _check_generator(arguments["generator"], images * number)
    if arguments["latents"] is not None:
        _check_latents(arguments["latents"], images * number, pipe.unet.config.in_channels)


def _check_prompts(prompt, prompt_embeds):
    """Returns the number of prompts."""
    if (prompt is None) == (prompt_embeds is None):
        raise UsageError("give either prompt or prompt_embeds.")
    if prompt is None:
        if not isinstance(prompt_embeds, torch.Tensor) or prompt_embeds.ndim != 3 or not len(prompt_embeds):
            raise UsageError("prompt_embeds must be a torch.Tensor of shape (prompts, tokens, channels).")
        return len(prompt_embeds)
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UsageError(f"prompt={prompt!r} must be a text or a list of at least one text.")
    return len(prompts)


def _check_scale(unet, cross_attention_kwargs):
    if not isinstance(cross_attention_kwargs, dict | None):
        raise UsageError(f"cross_attention_kwargs={cross_attention_kwargs!r} must be a dict.")
    scale = (cross_attention_kwargs or {}).get("scale", 1)
    acting = acting_adapters(unet) if scale != 1 else []
    if ADAPTER in acting and len(acting) > 1:
        raise UsageError(
            f'cross_attention_kwargs={{"scale": {scale}}} would weaken the student as well: set the strength of each '
            f"LoRA with pipe.set_adapters({acting}, [1.0, ...])."
        )


def _is_count(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


def _check_generator(generator, images):
    given = generator if isinstance(generator, list | tuple) else [generator] * images
    for one in given:
        if one is not None and not isinstance(one, torch.Generator):
            remedy = f"torch.Generator().manual_seed({one})" if isinstance(one, int) else "a torch.Generator"
            raise UsageError(f"generator={one!r} is no torch.Generator: give {remedy}.")
    if len(given) != images:
        raise UsageError(f"generator: {len(given)} were given for {images} images; give one for each, or one.")


def _check_latents(latents, images, channels):
    if not isinstance(latents, torch.Tensor):
        raise UsageError(f"latents is a {type(latents).__name__}: give a torch.Tensor (torch.from_numpy of an array).")
    if latents.ndim != 4 or tuple(latents.shape[:2]) != (images, channels):
        raise UsageError(
            f"latents has shape {tuple(latents.shape)}: {images} images need ({images}, {channels}, height, width)."
        )
