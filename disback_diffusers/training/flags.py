# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How a setting is declared: its default, its help, what it shapes, and its limits."""

from dataclasses import field
from typing import Any


# What a setting shapes. It must be the same in a resumed run unless it shapes nothing.
TEACHER = "teacher"  # which weights the run starts from: recorded as the base model
PATH = "path"  # the degradation path and the result: recorded in the path's manifest and in disback_config.json
RESULT = "result"  # the result only: recorded in disback_config.json
NOTHING = "nothing"  # neither, up to rounding: speed, memory, logs, and where things are written

METADATA = ("shapes", "local", "needs", "objectives", "above", "at_least", "below")  # of a field, beside its help text


def flag(
    default: Any,
    help: str,
    shapes: str = RESULT,
    local: bool = False,
    needs: str | None = None,
    objectives: tuple[str, ...] | None = None,
    shown: bool = True,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> Any:
    """A field.

    Args:
        default: its default value.
        help (`str`): for the command line.
        shapes (`str`): TEACHER, PATH, RESULT or NOTHING.
        local (`bool`): whether it may name a local file or folder.
        needs (`str`, *optional*): the setting without which this one has no effect.
        objectives (`tuple[str]`, *optional*): those that use it; by default all do.
        shown (`bool`): whether it may be printed.
        above, at_least, below (`float`, *optional*): limits of a number; None is left alone.
    """
    limits = {"above": above, "at_least": at_least, "below": below}
    metadata = {"help": help, "shapes": shapes, "local": local, "needs": needs, "objectives": objectives, **limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata, repr=shown)
