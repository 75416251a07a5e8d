# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Turns the files that EDM's teachers were published as into folders that diffusers loads."""

import json
import os
import re
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError

from ..errors import RunError, UsageError, one_line
from .edm_nvlabs import of_nvlabs
from .edm_openai import of_openai
from .edm_pickles import PICKLE, STATE_DICT
from .edm_renaming import Converted


CLASSES_NAME = "classes.json"
STUDENTS = re.compile("c[dt]_")  # published beside their teachers, with the same layout


def convert_file(file: Path, folder: Path) -> str:
    """Convert a published teacher to a folder, which is there whole or not at all.

    Args:
        file (`Path`): as in `convert`.
        folder (`Path`): a new one.

    Returns:
        `str`: what it is, as one line.

    Raises:
        UsageError: as in `convert`, or the folder exists.
        RunError: it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder} is there already: choose another folder.")
    converted = convert(file)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        try:
            save(converted, temporary)
        except UsageError as error:
            raise UsageError(f"{file} does not fit its own settings: {error}") from None
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} cannot be written ({one_line(error)}): free space, or choose another.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{folder}: {describe(converted)}"


def describe(converted: Converted) -> str:
    """What a teacher is, in a few words."""
    parameters = sum(value.numel() for value in converted.state.values())
    size, classes = converted.config["sample_size"], converted.classes
    labels = f"{classes:,} classes" if classes else "unconditional"
    return (
        f"{converted.network_class.__name__} of {parameters / 1e6:,.1f} M parameters, {size}x{size} pixels, {labels}"
    )


def convert(file: Path) -> Converted:
    """Read a published teacher.

    Args:
        file (`Path`): a .pkl of NVlabs' EDM, or a .pt of OpenAI's consistency models.

    Raises:
        UsageError: it is damaged, holds code, is of another architecture, or is a consistency model.
    """
    if file.is_dir():
        raise UsageError(
            f"{file} is a folder: give a {PICKLE} or {STATE_DICT[0]} file. A diffusers folder needs no conversion."
        )
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file.")
    if STUDENTS.match(file.name):
        raise UsageError(
            f"{file} is a consistency model by its name, which has few steps: give a teacher, edm_*_ema.pt."
        )
    if file.suffix.lower() == PICKLE:
        return of_nvlabs(file)
    if file.suffix.lower() in STATE_DICT:
        return of_openai(file)
    raise UsageError(
        f"{file} is not supported: give a {PICKLE} of EDM or a {STATE_DICT[0]} of the consistency models."
    )


def save(converted: Converted, folder: Path) -> None:
    """Write a pipeline's folder that diffusers loads and that can be a teacher here.

    Raises:
        UsageError: the tensors do not fit the network.
    """
    try:
        with torch.device("meta"):
            network = converted.network_class.from_config(converted.config)
    except Exception as error:  # of whatever settings the file has
        raise UsageError(f"no network can be built ({one_line(error)}).") from None
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in converted.state.items()}
    if wanted != found:
        name = min(wanted.items() ^ found.items())[0]
        raise UsageError(f"tensor {name} is {found.get(name, 'missing')}, expected {wanted.get(name, 'none')}.")
    network.load_state_dict(converted.state, assign=True)
    network.save_pretrained(folder / "unet")
    converted.scheduler.save_pretrained(folder / "scheduler")
    owner = "diffusers" if converted.network_class is UNet2DModel else "disback_diffusers"
    index = {
        "_class_name": "ConsistencyModelPipeline",
        "unet": [owner, converted.network_class.__name__],
        "scheduler": ["diffusers", type(converted.scheduler).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / CLASSES_NAME).unlink(missing_ok=True)  # of an earlier teacher
    if converted.classes:
        classes = {"classes": converted.classes, "empty_class": converted.empty_class}
        classes |= {"names": converted.class_names} if converted.class_names else {}
        (folder / CLASSES_NAME).write_text(json.dumps(classes, indent=2) + "\n", encoding="utf-8")
