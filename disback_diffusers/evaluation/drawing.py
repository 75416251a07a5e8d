# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The model that evaluate_disback.py is given: as a pipeline, and as the images it draws."""

import hashlib
import platform
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from ..artifact.load import Artifact, student_settings
from ..errors import UsageError, one_line
from ..files import weights_digest
from ..models.embedded import resolve
from ..models.pipeline_files import INDEX_NAME, weights_hint
from ..models.text_parts import count_longer, without_truncation_warnings
from ..pipelines import DisBackPipeline
from .generation import Generation, latency
from .images import image_files


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHAPING = ("model", "base_model", "variant", "num_inference_steps", "guidance_scale", "resolution", "dtype", "seed")


def given_images(model):
    """The image files of MODEL, where it is a folder of images and no pipeline; else none."""
    is_folder = Path(model).is_dir() and not (Path(model) / INDEX_NAME).exists()
    return image_files(model) if is_folder else []


def planned(args, prompts):
    """The images that `args` ask for, as a `Generation` that has not been started."""
    settings = {name: getattr(args, name) for name in SHAPING}
    settings["resolution"] = list(args.resolution) if args.resolution else None  # as JSON gives it back
    settings["weights"] = weights_digest(resolve(args.model))
    settings["prompts"] = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    settings["num_images"] = len(prompts)
    return Generation(args.output_dir, prompts, settings)


def draw(args, generation, accelerator):
    """All images that are missing, over all processes.

    Returns:
        what is recorded of it on the main process, `dict`; of the others an empty one.

    Raises:
        UsageError, RunError: as `load_pipeline`; an image that is not finite.
    """
    pipeline, call = load_pipeline(args)
    pipeline.to(accelerator.device)
    if accelerator.is_main_process:
        _say_how_many_are_long(pipeline, generation.prompts)
        generation.start()
    accelerator.wait_for_everyone()
    with without_truncation_warnings():
        generation.run(pipeline, args.batch_size, accelerator.process_index, accelerator.num_processes, **call)
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return {}
        seconds = round(latency(pipeline, generation.prompts[0], **call), 4)
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{platform.machine()} CPU"
    return {"seconds an image": seconds, "device": device}


def _say_how_many_are_long(pipeline, prompts):
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer and (long := count_longer(tokenizer, prompts)):
        read = tokenizer.model_max_length
        print(
            f"{long:,} of {len(prompts):,} prompts are longer than {read} tokens: what comes after may have no effect."
        )


def is_student(args):
    """Whether MODEL is a student of ours or some other pipeline; of its small files alone.

    Raises:
        UsageError: neither, or flags that are for the other kind.
        RunError: the Hub cannot be reached.
    """
    artifact = Artifact.find(resolve(args.model))
    if artifact.config or artifact.kind != "full":
        steps = (1, 2, 4, 8) if student_settings(artifact.config).get("few_step") else (1,)
        if args.num_inference_steps not in (None, *steps):
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


def load_pipeline(args):
    """The pipeline of MODEL, and the arguments of its calls: ours for a student of ours, else diffusers' own.

    Raises:
        UsageError, RunError: nothing that can be loaded, or as in `is_student`.
    """
    call = {name: getattr(args, name) for name in ("num_inference_steps", "guidance_scale")}
    call = {name: value for name, value in call.items() if value is not None}
    model = resolve(args.model)
    if args.resolution:
        width, height = args.resolution
        call.update(height=height, width=width)
    loading = {"dtype": DTYPES[args.dtype], "use_safetensors": True}
    if args.variant or not is_student(args):  # a student has its own
        loading["variant"] = args.variant
    if is_student(args):
        return DisBackPipeline.from_pretrained(model, base_model=args.base_model, **loading), call
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, **loading)
        pipeline.to("cpu")  # fails where weights are missing
    except Exception as error:  # of four libraries
        hint = weights_hint(model, loading["variant"])
        raise UsageError(f"{args.model} is no pipeline that diffusers loads: {hint or one_line(error)}") from None
    if getattr(pipeline, "safety_checker", None):
        pipeline.safety_checker = None  # a blackened image says nothing about the model
    return pipeline, call
