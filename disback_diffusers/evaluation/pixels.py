# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Evaluating pixel-space models: they have class labels, or nothing, where others have prompts."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ConsistencyModelPipeline, DDIMPipeline, DDPMPipeline, DiffusionPipeline

from ..artifact.load import Artifact, fetch, read_json
from ..errors import UsageError
from ..models.edm_conversion import CLASSES_NAME
from ..models.labels import parse_labels
from ..models.pipeline_files import INDEX_NAME
from .generation import Draw, text_caller


PIXEL_PIPELINES = (ConsistencyModelPipeline, DDPMPipeline, DDIMPipeline)


def is_pixel_model(artifact: Artifact) -> bool:
    """Whether MODEL generates pixels, of class labels or of nothing."""
    file = artifact.folder / INDEX_NAME
    name = read_json(file).get("_class_name") if artifact.kind == "full" else artifact.config.get("pipeline")
    return name in [cls.__name__ for cls in PIXEL_PIPELINES]


def known_labels(artifact: Artifact) -> list[int]:
    """The class labels that the model was trained for; empty for an unconditional one.

    Raises:
        UsageError: a file cannot be read.
    """
    if artifact.config:
        text = artifact.config.get("class_labels")
        return parse_labels(text, 10**6) if text else []
    rows = artifact.unet_config.get("num_class_embeds") or 0
    folder = fetch(artifact.source, [CLASSES_NAME], artifact.revision)
    has_empty_class = (folder / CLASSES_NAME).is_file()
    return list(range(read_json(folder / CLASSES_NAME)["classes"] if has_empty_class else rows))


def labels_of_images(artifact: Artifact, given: Sequence[str], count: int | None) -> list[str]:
    """The class label of each image, as text; empty text for each image of an unconditional model.

    Args:
        artifact (`Artifact`): MODEL.
        given (`list[str]`): the lines of --prompts; without any, all classes in turn.
        count (`int` or `None`): --num_images.

    Raises:
        UsageError: the number of images is not known, or a line is no class of the model.
    """
    known = known_labels(artifact)
    if given and not known:
        raise UsageError(f"--prompts: {artifact.source} is unconditional: leave it out.")
    if given:
        wrong = [line for line in given if not line.isdecimal() or int(line) not in known]
        if wrong:
            raise UsageError(f"--prompts: '{wrong[0]}' is no class of {artifact.source}; give one label per line.")
        return list(given)
    if not count:
        raise UsageError("--num_images is required: the model has no prompts that would say how many.")
    return [str(known[i % len(known)]) if known else "" for i in range(count)]


def caller(pipeline: DiffusionPipeline, **call) -> Draw:
    """The `draw` of a `Generation`: of prompts, or of class labels as text, or of empty texts.

    Args:
        pipeline (`DiffusionPipeline`). call: further arguments of each call.
    """
    if not isinstance(pipeline, PIXEL_PIPELINES):
        return text_caller(pipeline, **call)

    def draw(labels: list[str], generators: list[torch.Generator]) -> np.ndarray:
        given = {"class_labels": [int(label) for label in labels]} if labels[0] else {}
        images = pipeline(batch_size=len(labels), generator=generators, output_type="np", **given, **call).images
        return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)

    return draw
