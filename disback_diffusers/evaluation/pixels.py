# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Evaluating pixel-space models: they have class labels, or nothing, where others have prompts."""

import argparse
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from diffusers import ConsistencyModelPipeline, DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor

from ..artifact.card import PIXEL_PIPELINES
from ..artifact.load import UNET_CONFIGS, Artifact, fetch, read_json
from ..errors import UsageError
from ..models.denoiser import Denoiser
from ..models.edm_conversion import CLASSES_NAME
from ..models.embedded import resolve
from ..models.families import EDM, open_teacher
from ..models.labels import MOST_CLASSES, format_labels, parse_labels, read_classes
from ..models.pipeline_files import INDEX_NAME
from .generation import Draw, text_caller


SCHEDULER = "scheduler/scheduler_config.json"


def is_pixel_model(artifact: Artifact, base_model: str | None = None) -> bool:
    """Whether MODEL generates pixels, of class labels or of nothing.

    Args:
        artifact (`Artifact`): MODEL. base_model (`str`, *optional*): --base_model.
    """
    folder = artifact.folder
    name = artifact.config.get("pipeline") if artifact.kind != "full" else None
    if name is None and artifact.kind != "full":
        with suppress(UsageError):  # without a known base it cannot be loaded anyway
            base, revision, _ = artifact.base(base_model)
            folder = fetch(base, [INDEX_NAME], revision)
    if name is None and (folder / INDEX_NAME).is_file():
        name = read_json(folder / INDEX_NAME).get("_class_name")
    return name in PIXEL_PIPELINES


def known_labels(artifact: Artifact, base_model: str | None = None) -> list[int]:
    """The class labels that the model was trained for; empty for an unconditional one.

    Raises:
        UsageError: a file cannot be read.
    """
    if artifact.config:
        text = artifact.config.get("class_labels")
        return parse_labels(text, MOST_CLASSES) if text else []
    source, revision = artifact.source, artifact.revision
    if artifact.kind == "lora":
        source, revision, _ = artifact.base(base_model)
    folder = fetch(source, [CLASSES_NAME, *UNET_CONFIGS], revision)
    config = read_json(folder / next(name for name in UNET_CONFIGS if (folder / name).is_file()))
    rows = config.get("num_class_embeds") or 0
    if not (folder / CLASSES_NAME).is_file():
        return list(range(rows))
    try:
        return list(range(read_classes(read_json(folder / CLASSES_NAME), rows)[0]))
    except ValueError as error:
        raise UsageError(
            f"{source} has a {CLASSES_NAME} that does not fit its network: {str(error).rstrip('.')}."
        ) from None


def labels_of_images(artifact: Artifact, known: list[int], given: Sequence[str], count: int | None) -> list[str]:
    """The class label of each image, as text; empty text for each image of an unconditional model.

    Args:
        artifact (`Artifact`): MODEL.
        known (`list[int]`): its classes.
        given (`list[str]`): the lines of --prompts; without any, all classes in turn.
        count (`int` or `None`): --num_images.

    Raises:
        UsageError: the number of images is not known, or a line is no class of the model.
    """
    if given and not known:
        raise UsageError(f"--prompts: {artifact.source} is unconditional: leave it out.")
    if given:
        labels = set(map(str, known))
        wrong = [line for line in given if line not in labels]
        if wrong:
            raise UsageError(
                f"--prompts: '{wrong[0]}' is not one of the classes of {artifact.source}, {format_labels(known)}: "
                "give one label per line."
            )
        return list(given)
    if not count:
        raise UsageError("--num_images is required for a model without prompts.")
    return [str(known[i % len(known)]) if known else "" for i in range(count)]


def check_sampling(artifact: Artifact, args: argparse.Namespace, known: list[int]) -> None:
    """Raise a UsageError where a pixel-space model that is no student cannot be sampled as the arguments say.

    `args.sampler` is set where it was left out and there is no doubt.
    """
    if artifact.config or artifact.kind != "full":
        if args.sampler:
            raise UsageError("--sampler is for a teacher: a student has one step.")
        return
    name = read_json(artifact.folder / INDEX_NAME).get("_class_name")
    if name != ConsistencyModelPipeline.__name__:
        if args.sampler == "heun":
            raise UsageError(f"--sampler heun is for EDM teachers: {artifact.source} is a {name}.")
        if known:
            raise UsageError(f"{artifact.source} has classes, and diffusers' {name} takes none: not supported.")
        return
    scheduler = read_json(fetch(artifact.source, [SCHEDULER], artifact.revision) / SCHEDULER).get("_class_name")
    if args.sampler is None and scheduler == "CMStochasticIterativeScheduler":
        raise UsageError("--sampler is required: heun for an EDM teacher, pipeline for a consistency model.")
    args.sampler = args.sampler or "heun"
    if args.sampler == "heun" and (args.num_inference_steps or 0) < 2:
        raise UsageError("--num_inference_steps is required, at least 2: the steps of Heun's method.")


def check_guidance(args: argparse.Namespace, known: list[int]) -> None:
    """Raise a UsageError where --guidance_scale has no effect: it is for EDM teachers with an empty class."""
    if args.guidance_scale is None:
        return
    if args.sampler != "heun" or not known:
        raise UsageError("--guidance_scale is for text-to-image models and class-conditional EDM teachers.")
    if not open_teacher(resolve(args.model), among=[EDM]).can_be_empty:
        raise UsageError(f"--guidance_scale: {args.model} has no empty class, which guidance needs: leave it out.")


def caller(pipeline: DiffusionPipeline, **call) -> Draw:
    """The `draw` of a `Generation`: of prompts, or of class labels as text, or of empty texts.

    Args:
        pipeline (`DiffusionPipeline`). call: further arguments of each call.
    """
    if not any(cls.__name__ in PIXEL_PIPELINES for cls in type(pipeline).__mro__):  # ours derive from them
        return text_caller(pipeline, **call)

    def draw(labels: list[str], generators: list[torch.Generator]) -> np.ndarray:
        given = {"class_labels": [int(label) for label in labels]} if labels[0] else {}
        images = pipeline(batch_size=len(labels), generator=generators, output_type="np", **given, **call).images
        return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)

    return draw


class HeunSampler:
    """An EDM teacher with EDM's sampler, which diffusers does not have.

    Args:
        model (`str`): folder or Hub id. dtype (`torch.dtype`): of the network. steps (`int`): 2 steps - 1 evaluations.
        guidance_scale (`float`): 0 is unconditional, 1 is off.

    Raises:
        UsageError: it is no EDM teacher, or cannot be loaded.
    """

    def __init__(self, model: str, dtype: torch.dtype, steps: int, guidance_scale: float = 1.0):
        self.family, self.steps, self.guidance_scale = open_teacher(model, among=[EDM]), steps, guidance_scale
        self.network = self.family.load_network(dtype)
        self.sample_size = self.family.network_config["sample_size"]

    def to(self, device: torch.device) -> "HeunSampler":
        """Move the network."""
        self.device = device
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, labels: list[str], generators: list[torch.Generator]) -> np.ndarray:
        """The `draw` of a `Generation`."""
        family, n = self.family, len(labels)
        shape = (n, *family.buckets([])[0].shape)
        z = randn_tensor(shape, generator=generators, device=self.device)
        encode = family.load_encoder(self.device)
        conditions, empty = encode(labels), encode([""] * n)
        teacher = Denoiser(family, self.network, family.schedule, device=self.device)
        x0 = family.sample(teacher, z, conditions, empty, self.steps, self.guidance_scale)
        return family.decode(x0).permute(0, 2, 3, 1).numpy()
