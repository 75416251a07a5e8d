# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which classes a class-conditional model has, and which it is trained on."""

import re
from typing import Any

from ..errors import UsageError


MOST_CLASSES = 10**6
RANGE = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", re.ASCII)


def parse_labels(text: str, classes: int) -> list[int]:
    """ "all", or numbers and ranges such as "0-9,17", as numbers in ascending order.

    Args:
        classes (`int`): of the model; labels are from 0 to one less.

    Raises:
        UsageError: it is neither, or there is no such class.
    """
    if text == "all":
        return list(range(classes))
    found = set()
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if not match:
            raise UsageError(f"{text}: '{part.strip()}' is not a class: give all, or numbers such as 0-9,17.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UsageError(f"{text}: '{part}' runs backwards: give {last}-{first}.")
        if last >= classes:
            raise UsageError(f"{text}: '{part}' is not within the teacher's classes, 0 to {classes - 1}.")
        found.update(range(first, last + 1))
    return sorted(found)


def format_labels(labels: list[int]) -> str:
    """Numbers in ascending order as text that `parse_labels` reads: "0-9,17"."""
    runs = []
    for label in labels:
        if runs and label == runs[-1][1] + 1:
            runs[-1][1] = label
        else:
            runs.append([label, label])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def read_classes(recorded: Any, rows: int) -> tuple[int, int | None, list[str] | None]:
    """The number of classes, the label that stands for none, and the names of the classes, of classes.json.

    Args:
        recorded: the content of the file: {"classes": 9, "empty_class": 9, "names": [...]}, the last two optional.
        rows (`int`): of the network's class embedding.

    Raises:
        ValueError: it is something else, or does not fit the network.
    """
    if not isinstance(recorded, dict):
        raise ValueError(recorded)
    classes, empty, names = (recorded.get(key) for key in ("classes", "empty_class", "names"))
    counts = type(classes) is int and 0 < classes <= rows
    is_beside = empty is None or (type(empty) is int and classes <= empty < rows) if counts else False
    named = names is None or (isinstance(names, list) and len(names) == classes and all(map(_is_name, names)))
    if not (counts and is_beside and named):
        raise ValueError(recorded)
    return classes, empty, names


def _is_name(text):
    return isinstance(text, str) and bool(text.strip()) and text.isprintable() and len(text) <= 100
