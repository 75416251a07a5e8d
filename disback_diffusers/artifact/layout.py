# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The files of a student, and disback_config.json, which records how to load and call it."""

import json
import math
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import UsageError
from ..files import CONFIG_NAME, LORA_NAME, TEACHER_LORA_NAME, atomic_write
from ..models.embedded import EMBEDDED
from ..models.labels import MOST_CLASSES, parse_labels
from ..models.lcm_lora import later_timesteps


FORMAT = 2
FORMATS = (1, 2)  # formats that can be read
CARD_NAME = "README.md"
UNET_FOLDER = "unet"
# Everything in an output folder that is uploaded: no checkpoints, optimizer states, logs or caches.
PUBLISHED = (
    CONFIG_NAME,
    CARD_NAME,
    LORA_NAME,
    TEACHER_LORA_NAME,
    *(f"{UNET_FOLDER}/{name}" for name in ("config.json", "*.safetensors", "*.safetensors.index.json")),
    "samples/*.png",
)
PATH_FILES = tuple(f"degradation/{name}" for name in ("manifest.json", "path.png", "*.safetensors"))  # on request


def write_config(folder: str | os.PathLike, config: dict) -> None:
    """Write disback_config.json, atomically.

    Args:
        folder (`str` or `os.PathLike`): the student's folder.
        config (`dict`): `timesteps` (`sigmas`, where the base has noise levels) and where known `base_model`,
            `base_revision`, `variant`, `pipeline` (the teacher's class), `network` (its class), `student`,
            `class_labels` (text, such as "0-9"), `class_names`, `base_interface` (what a base on pixels
            must have), `student_steps` (their number, where it takes these timesteps one after the other),
            `inference_steps` (instead of timesteps, where it takes the base's own steps: how many by default),
            `teacher_lora` (its `source` and `strength`), `lora_rank`, `lora_alpha`, `method`. `format` is added.

    Raises:
        UsageError: the timesteps are not valid.
        RunError: the file cannot be written.
    """
    file = Path(folder) / CONFIG_NAME
    config = {"format": FORMAT, **{key: value for key, value in config.items() if key != "format"}}
    _check_config(file, config)
    text = json.dumps(config, indent=2) + "\n"
    atomic_write(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_config(folder: str | os.PathLike) -> dict:
    """The content of disback_config.json, empty if there is none. Format 1 is returned as format 2.

    Raises:
        UsageError: the file is not JSON, has an unknown format, or has no valid timesteps.
    """
    file = Path(folder) / CONFIG_NAME
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is broken ({error}): restore it, or take it from another save of the run.") from None
    config = _as_format_2(config) if isinstance(config, dict) and config.get("format") == 1 else config
    _check_config(file, config)
    return config


def _as_format_2(config):
    """Format 1 has only the first timestep. The later ones of an LCM-LoRA student are those of a base with 1,000."""
    first, method = config.get("conditioning_timestep"), config.get("method")
    config = {**config, "format": FORMAT, "timesteps": [first]}
    config.pop("conditioning_timestep", None)
    if isinstance(method, dict) and method.get("proportion_later_steps") and type(first) is int:
        config["timesteps"] += later_timesteps({}, first)
    return config


def _check_config(file, config):
    format = config.get("format") if isinstance(config, dict) else None
    if format not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise UsageError(f"{file} has format {format!r}, this version reads {known}: a newer one may be needed.")
    _check_labels(file, config.get("class_labels"))
    _check_teacher_lora(file, config.get("teacher_lora"))
    if "sigmas" in config:
        _check_sigmas(file, config["sigmas"])
        return
    if "inference_steps" in config:
        _check_inference_steps(file, config["inference_steps"])
        return
    timesteps = config.get("timesteps")
    valid = isinstance(timesteps, list) and timesteps and all(type(t) is int and t >= 0 for t in timesteps)
    if not valid or sorted(set(timesteps), reverse=True) != timesteps:
        raise UsageError(f"{file} has timesteps {timesteps!r}; they must be whole numbers, at least 0, descending.")
    if config.get("student_steps", len(timesteps)) != len(timesteps):
        raise UsageError(f"{file} has student_steps {config['student_steps']!r}; it has {len(timesteps)} timesteps.")


def _check_inference_steps(file, steps):
    if type(steps) is not int or steps < 1:
        raise UsageError(f"{file} has inference_steps {steps!r}; they must be a whole number, at least 1.")


def _check_teacher_lora(file, lora):
    strength = lora.get("strength") if isinstance(lora, dict) else None
    if lora is not None and not (type(strength) in (int, float) and math.isfinite(strength)):
        raise UsageError(f"{file} has teacher_lora {lora!r}; it must have a strength, a number.")


def _check_labels(file, labels):
    try:
        if labels is not None:
            parse_labels(labels if labels != "all" else "", MOST_CLASSES)
    except (UsageError, AttributeError, TypeError):
        raise UsageError(f'{file} has class_labels {labels!r}; they must be text such as "0-9,17".') from None


def _check_sigmas(file, sigmas):
    valid = isinstance(sigmas, list) and sigmas and all(type(s) in (int, float) and 0 < s < math.inf for s in sigmas)
    if not valid or sorted(set(sigmas), reverse=True) != sigmas:
        raise UsageError(f"{file} has sigmas {sigmas!r}; they must be numbers above 0, descending.")


def published_files(folder: str | os.PathLike, with_path: bool = False) -> list[str]:
    """Relative paths of the files in an output folder that are uploaded, sorted."""
    folder, patterns = Path(folder), (*PUBLISHED, *(PATH_FILES if with_path else ()))
    found = {file.relative_to(folder).as_posix() for pattern in patterns for file in folder.glob(pattern)}
    return sorted(name for name in found if (folder / name).is_file())


# ---------------------------------------------------------------------------------------------------------------------
# What may be published


def hub_id(base_model: str | None) -> str | None:
    """`base_model` if it is the id of a repository on the Hub (owner/name), else None."""
    name = str(base_model or "")
    if name.count("/") != 1 or os.path.exists(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_config(config: dict) -> dict:
    """The configuration without local paths: a local base model becomes None, other paths keep the last component."""
    public = {key: without_paths(value) for key, value in config.items()}
    base = config.get("base_model")
    if "base_model" in config and base != EMBEDDED:
        public["base_model"] = hub_id(base)
    if public.get("base_model") is None:
        public.pop("base_revision", None)
    return public


def without_paths(value: Any) -> Any:
    """A JSON-like value in which each local path is reduced to its last component."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (value.startswith((".", "/", "~")) or (os.sep in value and os.path.exists(value))):
        return Path(value).name
    return value
