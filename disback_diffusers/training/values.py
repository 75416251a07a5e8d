# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Whether a value is of its setting's type. The command line sees to that by itself, Python does not."""

import os
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ..errors import UsageError


EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list[str]: "a list of strings",
}


def checked(name: str, annotation: Any, value: Any) -> Any:
    """The value as its setting takes it: numbers as int or float, a path as a string, one string as a list of one.

    Raises:
        UsageError: it is of another type, or none of the choices.
    """
    optional = NoneType in get_args(annotation)
    kind = get_args(annotation)[0] if optional else annotation
    if value is None and optional:
        return None
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
    elif (found := _as(kind, value)) is not None:
        return found
    else:
        expected = EXPECTED[kind]
    raise UsageError(f"--{name} must be {expected}, not {value!r}.")


def _as(kind, value):
    """The value as one of this kind, or None."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind in (int, float):  # those of numpy too
        numbers = Integral if kind is int else Real
        return kind(value) if isinstance(value, numbers) and not isinstance(value, bool) else None
    if kind is str:
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    items = [value] if isinstance(value, (str, int, os.PathLike)) else value
    if isinstance(value, bool) or not isinstance(items, (list, tuple)):
        return None
    strings = [str(item) if type(item) is int else _as(str, item) for item in items]  # such as a size in pixels
    return None if None in strings else strings
