# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The model to evaluate (MODEL of evaluate_disback.py): what kind it is, loading it, generating its images."""

import argparse
import hashlib
import platform
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ..artifact.load import Artifact
from ..data.images import image_files
from ..errors import UsageError, one_line, with_flags
from ..files import weights_digest
from ..models.embedded import resolve
from ..models.pipeline_files import INDEX_NAME, weights_hint
from ..models.text_parts import count_longer, without_truncation_warnings
from ..pipelines import DisBackPipeline
from .generation import Generation, latency
from .pixels import HeunSampler, caller, check_guidance, check_sampling, is_pixel_model, known_labels, labels_of_images
from .protocols import PROTOCOLS, check_size


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The arguments that the images depend on.
SHAPING = (
    "model",
    "base_model",
    "variant",
    "num_inference_steps",
    "sampler",
    "guidance_scale",
    "resolution",
    "dtype",
    "seed",
)


TIMES = ("timesteps", "sigmas", "inference_steps")  # in a student's configuration


def given_images(model: str) -> list[Path]:
    """The image files of MODEL if it is a folder of images; empty for a pipeline or a Hub id."""
    is_folder = Path(model).is_dir() and not (Path(model) / INDEX_NAME).exists()
    return image_files(model) if is_folder else []


def planned(args: argparse.Namespace, prompts: list[str]) -> Generation:
    """The `Generation` that the arguments ask for; it has not been started."""
    settings = {name: getattr(args, name) for name in SHAPING}
    settings["resolution"] = list(args.resolution) if args.resolution else None  # as JSON gives it back
    settings["weights"] = weights_digest(resolve(args.model))
    artifact = Artifact.find(resolve(args.model))
    settings |= {name: artifact.config.get(name) for name in TIMES if name in artifact.config}
    if artifact.kind != "full":
        settings["base_weights"] = weights_digest(artifact.base(args.base_model)[0])
    settings["num_images"] = len(prompts)
    settings["prompts"] = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    return Generation(args.output_dir, prompts, settings)


def generate(
    args: argparse.Namespace, generation: Generation, accelerator: Accelerator, real_size: int | None = None
) -> dict[str, float | str]:
    """Generate all missing images, over all processes, and measure the seconds per image.

    Args:
        real_size (`int`, *optional*): side of the real images in pixels, for `check_size`.

    Returns:
        `dict`: "seconds an image" and "device" on the main process; empty on the others.

    Raises:
        UsageError, RunError: as in `load_pipeline` and `check_size`.
        NotFiniteError: an image has NaN or infinite values.
    """
    if args.sampler == "heun":
        steps, guidance_scale = args.num_inference_steps, 1.0 if args.guidance_scale is None else args.guidance_scale
        draw = HeunSampler(resolve(args.model), DTYPES[args.dtype], steps, guidance_scale).to(accelerator.device)
        pipeline, size = None, draw.sample_size
    else:
        pipeline, call = load_pipeline(args)
        pipeline.to(accelerator.device)
        pipeline.set_progress_bar_config(disable=True)
        draw, size = caller(pipeline, **call), getattr(pipeline.unet.config, "sample_size", None)
    if real_size:
        check_size(args, size, real_size)
    if accelerator.is_main_process:
        _say_how_many_are_long(pipeline, generation.prompts)
        generation.start()
    accelerator.wait_for_everyone()
    with without_truncation_warnings():
        generation.run(draw, args.batch_size, accelerator.process_index, accelerator.num_processes)
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return {}
        seconds = round(latency(draw, generation.prompts[0]), 4)
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{platform.machine()} CPU"
    return {"seconds an image": seconds, "device": device}


def _say_how_many_are_long(pipeline, prompts):
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer and (long := count_longer(tokenizer, prompts)):
        read = tokenizer.model_max_length
        print(
            f"{long:,} of {len(prompts):,} prompts are longer than {read} tokens: what comes after may have no effect."
        )


def is_pixels(args: argparse.Namespace) -> bool:
    """Whether MODEL is a pixel-space model. Reads its small files only.

    Raises:
        UsageError, RunError: as in `Artifact.find`.
    """
    return is_pixel_model(Artifact.find(resolve(args.model)), args.base_model)


def texts_of_images(args: argparse.Namespace, prompts: list[str]) -> list[str]:
    """The prompt of each image that is to be generated; or its class label, or an empty text. Reads small files only.

    Args:
        prompts (`list[str]`): of --prompts.

    Raises:
        UsageError: their number is not known, or a flag is not for this kind of model.
    """
    if not is_pixels(args):
        if args.sampler or (args.protocol and PROTOCOLS[args.protocol].eval_size is None):
            flag = "--sampler" if args.sampler else f"--protocol {args.protocol}"
            raise UsageError(f"{flag} is for pixel-space models: leave it out.")
        if not prompts:
            raise UsageError(
                f"--prompts is required: {args.model} is not a folder of images, so its images have to be generated."
            )
        return prompts
    for name in ("clip_model", "resolution"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for text-to-image models: leave it out.")
    artifact = Artifact.find(resolve(args.model))
    known = known_labels(artifact, args.base_model)
    check_sampling(artifact, args, known)
    check_guidance(args, known)
    return labels_of_images(artifact, known, prompts, args.num_images)


def is_student(args: argparse.Namespace) -> bool:
    """Whether MODEL is a student of this package, and not another pipeline. Reads its small files only.

    Raises:
        UsageError: it is neither, or a flag belongs to the other kind.
        RunError: the Hub cannot be reached.
    """
    artifact = Artifact.find(resolve(args.model))
    if artifact.config or artifact.kind != "full":
        steps = [n for n in (1, 2, 4, 8) if n <= len(artifact.config.get("timesteps", [None]))]
        takes_any = "inference_steps" in artifact.config
        if not takes_any and args.num_inference_steps not in (None, *steps):
            trained = " or ".join(map(str, steps))
            raise UsageError(
                f"--num_inference_steps {args.num_inference_steps}: this student was trained for {trained}."
            )
        if (args.guidance_scale or 0) > 1:
            raise UsageError("--guidance_scale is for a pipeline that is no student: a student has learned guidance.")
        return True
    if args.base_model:
        raise UsageError(f"--base_model is for a LoRA or a UNet; {args.model} is a whole pipeline.")
    return False


def _check_steps(pipeline, steps):
    timesteps = pipeline.scheduler.config.get("num_train_timesteps") if hasattr(pipeline, "scheduler") else None
    if steps and timesteps and steps > timesteps:
        raise UsageError(f"--num_inference_steps {steps} is more than the {timesteps} timesteps of the scheduler.")


def load_pipeline(args: argparse.Namespace) -> tuple[DiffusionPipeline, dict]:
    """The pipeline of MODEL and the arguments of its calls.

    A student gets a `DisBackPipeline`, another model the pipeline that diffusers loads.

    Raises:
        UsageError, RunError: it cannot be loaded, or as in `is_student`.
    """
    call = {name: getattr(args, name) for name in ("num_inference_steps", "guidance_scale")}
    call = {name: value for name, value in call.items() if value is not None}
    model = resolve(args.model)
    if args.resolution:
        width, height = args.resolution
        call.update(height=height, width=width)
    loading = {"dtype": DTYPES[args.dtype], "use_safetensors": True}
    if args.variant or not is_student(args):  # a student records its own
        loading["variant"] = args.variant
    if is_student(args):
        return DisBackPipeline.from_pretrained(model, base_model=args.base_model, **loading), call
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, **loading)
        pipeline.to("cpu")  # fails where weights are missing
    except Exception as error:  # of four libraries
        hint = with_flags(weights_hint(model, loading["variant"]) or "")
        raise UsageError(f"{args.model} is no pipeline that diffusers loads: {hint or one_line(error)}") from None
    _check_steps(pipeline, args.num_inference_steps)
    if getattr(pipeline, "safety_checker", None):
        pipeline.safety_checker = None  # an image it blackens says nothing about the model
    return pipeline, call
