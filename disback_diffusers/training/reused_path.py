# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The path of `--degradation_path`, and whether it fits the run."""

import os

from ..errors import UsageError, about
from ..models.labels import MOST_CLASSES, parse_labels
from .arguments import DistillationArguments
from .path import DegradationPath
from .switching import count_stays


def open_path(args: DistillationArguments) -> DegradationPath:
    """Open the path.

    Raises:
        UsageError: it is not complete, or was recorded for another student or with other adapters.
    """
    folder = args.path.degradation_path
    with about("--degradation_path"):
        path = DegradationPath.load(folder)
    if not path.complete:
        raise UsageError(f"--degradation_path {folder} was not recorded to its end: resume that run first.")
    _check_classes(folder, path.settings.get("class_labels"), args.data.class_labels)
    for setting in ("conditioning_timestep", "conditioning_sigma", "timesteps", "negative_prompt", "warmup_pairs"):
        if (there := path.settings.get(setting) or None) != (args[setting] or None):
            raise UsageError(
                f"--degradation_path {folder} was recorded for --{setting} {there}, and this run has {args[setting]}: "
                f"set {there}, or record a path."
            )
    for setting in ("lcm_lora", "student_unet", "init_lora"):
        if bool(path.settings.get(setting)) != bool(args[setting]):
            raise UsageError(other_start(folder, setting))
    for setting in ("lora_rank", "lora_alpha", "lora_target_modules"):
        if (there := path.settings.get(setting, args[setting])) != args[setting]:
            raise UsageError(
                f"--degradation_path {folder} has adapters of --{setting} {there}, here it is {args[setting]}: set "
                "the same, or record a path."
            )
    if args.path.walks(path):
        args.steps_per_stay(count_stays(len(path)))  # checks
    return path


def _check_classes(folder, recorded, wanted):
    """Only classes that the path was recorded for."""
    if recorded in (None, "all") or wanted is None:
        return
    there, here = (set(parse_labels(text, MOST_CLASSES)) for text in (recorded, wanted))
    if here - there:
        raise UsageError(
            f"--degradation_path {folder} was recorded for the classes {recorded}, and --class_labels {wanted} has "
            "others: record a path."
        )


def other_start(folder: str | os.PathLike, setting: str) -> str:
    """The message for a path whose student started as something else than this setting says."""
    return f"--degradation_path {folder} leads to another student: --{setting} is not the same. Record a path."
