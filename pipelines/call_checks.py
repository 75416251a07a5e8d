# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Checks of the arguments of a call before it runs, and of its images afterwards."""

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from disback_diffusers.errors import NotFiniteError, UsageError

from .adapters import ADAPTER, acting_adapters


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
SIZES = ("original_size", "target_size", "crops_coords_top_left")


def checked(pipe: DiffusionPipeline, arguments: dict) -> dict:
    """Refuse values that would fail deep inside diffusers, or be misread by it.

    Args:
        pipe: The pipeline that is called.
        arguments: Of a call of any of our pipelines, by name.

    Returns:
        The arguments, with sequences and dtypes as diffusers needs them.

    Raises:
        UsageError: A value is not valid; names the argument and the remedy.
    """
    arguments = dict(arguments)
    _check_parts(pipe, arguments)
    images = _check_prompts(arguments)
    _check_embeddings(pipe, arguments)
    _check_numbers(pipe, arguments)
    number = arguments.get("num_images_per_prompt", 1)
    if not is_count(number):
        raise UsageError(f"num_images_per_prompt={number!r} must be a whole number, at least 1.")
    if arguments["output_type"] not in OUTPUT_TYPES:
        raise UsageError(f"output_type={arguments['output_type']!r} must be one of {', '.join(OUTPUT_TYPES)}.")
    if arguments.get("ip_adapter_image") is not None and pipe.unet.encoder_hid_proj is None:
        raise UsageError("ip_adapter_image needs an IP-Adapter: call pipe.load_ip_adapter(...) first.")
    _check_scale(pipe.unet, arguments.get("cross_attention_kwargs"))
    arguments["generator"] = checked_generator(arguments.get("generator"), images * number)
    if arguments.get("latents") is not None:
        _check_latents(arguments["latents"], images * number, pipe.unet.config.in_channels)
        arguments["latents"] = arguments["latents"].to(pipe.unet.dtype)
    for name in SIZES:
        if name in arguments:
            arguments[name] = _checked_size(name, arguments[name])
    arguments["callback_on_step_end_tensor_inputs"] = _checked_callback(arguments)
    return arguments


def check_finite(images: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise a NotFiniteError for images or latents with values that are not finite numbers.

    Args:
        images: (n, channels, height, width).
        dtype: Of the UNet.
    """
    finite = images.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        if dtype == torch.float16:
            remedy = "float16 may have overflowed: load the pipeline with dtype=torch.bfloat16 or torch.float32"
        else:
            remedy = "check the weights and the inputs for NaN"
        raise NotFiniteError(
            f"{finite.count(False)} of {len(finite)} images have values that are not finite numbers; {remedy}.",
            images=[i for i, good in enumerate(finite) if not good],
        )


def finite_images(pipe: DiffusionPipeline, stock_call: Callable, arguments: dict) -> BaseOutput | tuple:
    """Run a stock call without guidance and check its images.

    Args:
        pipe: The pipeline that is called.
        stock_call: `__call__` of its stock class.
        arguments: From `checked`, by name.

    Returns:
        What the stock call returns.

    Raises:
        NotFiniteError: An image has NaN or infinite values, which would be shown as black.
    """
    arguments, wanted = dict(arguments), arguments["output_type"]
    return_dict = arguments.pop("return_dict", True)
    as_tensor = wanted if wanted == "latent" else "pt"
    output = stock_call(**{**arguments, "output_type": as_tensor, "guidance_scale": 0.0, "return_dict": True})
    check_finite(output.images, pipe.unet.dtype)
    if wanted in ("np", "pil"):
        output.images = pipe.image_processor.pt_to_numpy(output.images)
    if wanted == "pil":
        output.images = pipe.image_processor.numpy_to_pil(output.images)
    if return_dict:
        return output
    nsfw = [output.nsfw_content_detected] if hasattr(output, "nsfw_content_detected") else []
    return (output.images, *nsfw)


def _check_parts(pipe, arguments):
    if pipe.unet is None:
        raise UsageError("the pipeline was loaded with unet=None: it can encode prompts, but not generate.")
    needed = [] if arguments["output_type"] == "latent" else ["vae"]
    if arguments.get("prompt") is not None:
        needed += [name for name in pipe.components if name.startswith(("tokenizer", "text_encoder"))]
    for name in needed:
        if getattr(pipe, name) is None:
            instead = 'output_type="latent"' if name == "vae" else "prompt_embeds"
            raise UsageError(f"the pipeline was loaded with {name}=None: load it with one, or use {instead}.")
    takes_any_steps = pipe.config.get("inference_steps") or pipe.config.get("_inference_steps")
    if not takes_any_steps and "timesteps" not in inspect.signature(pipe.scheduler.set_timesteps).parameters:
        raise UsageError(
            f"pipe.scheduler is a {type(pipe.scheduler).__name__}, which cannot start at the student's timestep: keep "
            "the scheduler the pipeline was loaded with."
        )


def _check_prompts(arguments):
    """Check the prompts and return their number."""
    prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
    if (prompt is None) == (embeds is None):
        raise UsageError("give either prompt or prompt_embeds.")
    if prompt is None:
        if not isinstance(embeds, torch.Tensor) or embeds.ndim != 3 or not len(embeds):
            raise UsageError("prompt_embeds must be a torch.Tensor of shape (prompts, tokens, channels).")
        if arguments.get("prompt_2") is not None:
            raise UsageError("prompt_2 needs prompt: give both, or the embeddings alone.")
        return len(embeds)
    prompts = _texts("prompt", prompt)
    if arguments.get("prompt_2") is not None and len(_texts("prompt_2", arguments["prompt_2"])) != len(prompts):
        raise UsageError(f"prompt_2 must have as many texts as prompt, {len(prompts)}.")
    return len(prompts)


def _texts(name, value):
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{name}={value!r} must be a text or a list of at least one text.")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name}={ascii(text)} has half a character (a lone surrogate): correct it.") from None
    return texts


def _check_embeddings(pipe, arguments):
    if arguments.get("prompt_embeds") is None:
        return
    prompts, config = len(arguments["prompt_embeds"]), pipe.unet.config
    _check_embedding(arguments, "prompt_embeds", (prompts, "tokens", config.cross_attention_dim))
    if "pooled_prompt_embeds" in arguments:
        if arguments["pooled_prompt_embeds"] is None:
            raise UsageError("prompt_embeds needs pooled_prompt_embeds: pipe.encode_prompt(...) returns both.")
        size = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        _check_embedding(arguments, "pooled_prompt_embeds", (prompts, size))


def _check_embedding(arguments, name, wanted):
    value = arguments[name]
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    fits = len(shape) == len(wanted) and all(a == b or b == "tokens" for a, b in zip(shape, wanted, strict=True))
    if not fits or 0 in shape:
        raise UsageError(
            f"{name} is {shape}: this pipeline needs a torch.Tensor of shape ({', '.join(map(str, wanted))})."
        )
    _check_values(name, value)


def _check_values(name, value):
    if value.is_meta or not value.is_floating_point() or not value.isfinite().all():
        raise UsageError(f"{name} must be finite real numbers; this {value.dtype} on {value.device} is not.")


def _check_numbers(pipe, arguments):
    for name in ("height", "width", "clip_skip"):
        value = arguments.get(name)
        if value is not None and not is_count(value):
            raise UsageError(f"{name}={value!r} must be a whole number greater than 0.")
        if name != "clip_skip" and value is not None and value % math.lcm(8, pipe.vae_scale_factor):
            raise UsageError(f"{name}={value} must be a multiple of {math.lcm(8, pipe.vae_scale_factor)}.")
    if (skip := arguments.get("clip_skip")) is None or arguments.get("prompt") is None:
        return
    encoders = [getattr(pipe, name) for name in pipe.components if name.startswith("text_encoder")]
    layers = min(encoder.config.num_hidden_layers for encoder in encoders)
    if skip >= layers:
        raise UsageError(f"clip_skip={skip} must be less than {layers}, the layers of the text encoder.")
    if len(encoders) == 1 and not hasattr(encoders[0], "text_model"):
        raise UsageError(
            "clip_skip: this release of diffusers cannot do it with this one of transformers; leave it out."
        )


def _check_scale(unet, cross_attention_kwargs):
    if not isinstance(cross_attention_kwargs, dict | None):
        raise UsageError(f"cross_attention_kwargs={cross_attention_kwargs!r} must be a dict.")
    scale = (cross_attention_kwargs or {}).get("scale", 1)
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale == 0:  # diffusers could not undo a scale of 0
        raise UsageError(
            f'cross_attention_kwargs={{"scale": {scale!r}}} must be a finite number other than 0; pipe.disable_lora() '
            "turns LoRAs off."
        )
    acting = acting_adapters(unet) if scale != 1 else []
    if ADAPTER in acting and len(acting) > 1:
        raise UsageError(
            f'cross_attention_kwargs={{"scale": {scale}}} would weaken the student as well: set the strength of each '
            f"LoRA with pipe.set_adapters({acting}, [1.0, ...])."
        )


def is_count(value: object) -> bool:
    """Whether it is a whole number greater than 0."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


def checked_generator(
    generator: torch.Generator | list[torch.Generator] | None, images: int
) -> torch.Generator | list[torch.Generator] | None:
    """The generator of a call, or the list of one for each image; a UsageError for anything else."""
    is_list = isinstance(generator, list | tuple)
    for one in generator if is_list else [generator]:
        if not isinstance(one, torch.Generator) and (is_list or one is not None):
            is_seed = isinstance(one, Integral) and not isinstance(one, bool)
            remedy = f"torch.Generator().manual_seed({one})" if is_seed else "a torch.Generator"
            raise UsageError(f"generator={one!r} is no torch.Generator: give {remedy}.")
    if is_list and len(generator) != images:
        raise UsageError(f"generator: {len(generator)} were given for {images} images; give one for each, or one.")
    return list(generator) if is_list else generator


def checked_noise(latents: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise of a call; a UsageError unless it is a tensor of this shape and finite."""
    if not isinstance(latents, torch.Tensor):
        raise UsageError(f"latents is a {type(latents).__name__}: give a torch.Tensor (torch.from_numpy of an array).")
    if tuple(latents.shape) != shape:
        raise UsageError(f"latents has shape {tuple(latents.shape)}: it must be {shape}.")
    _check_values("latents", latents)
    return latents


def _check_latents(latents, images, channels):
    if not isinstance(latents, torch.Tensor):
        raise UsageError(f"latents is a {type(latents).__name__}: give a torch.Tensor (torch.from_numpy of an array).")
    if latents.ndim != 4 or tuple(latents.shape[:2]) != (images, channels) or 0 in latents.shape:
        raise UsageError(
            f"latents has shape {tuple(latents.shape)}: {images} images need ({images}, {channels}, height, width)."
        )
    _check_values("latents", latents)


def _checked_size(name, value):
    if value is None:
        return (0, 0) if name == "crops_coords_top_left" else None
    try:
        size = tuple(value)
    except TypeError:
        size = ()
    if len(size) != 2 or not all(isinstance(x, Real) and math.isfinite(x) for x in size):
        raise UsageError(f"{name}={value!r} must be two numbers of pixels.")
    return size


def _checked_callback(arguments):
    callback, inputs = arguments.get("callback_on_step_end"), arguments.get("callback_on_step_end_tensor_inputs")
    if callback is not None and not callable(callback):
        raise UsageError(f"callback_on_step_end={callback!r} must be a function.")
    if inputs is None:
        return ["latents"]
    if not isinstance(inputs, list | tuple) or not all(isinstance(name, str) for name in inputs):
        raise UsageError(f"callback_on_step_end_tensor_inputs={inputs!r} must be a list of names.")
    return list(inputs)
