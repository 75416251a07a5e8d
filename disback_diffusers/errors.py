# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The two kinds of failure that a user sees as one line. Anything else is a bug and keeps its traceback."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def exit_code(action: Callable[[], object]) -> int:
    """Run what a script does: 0 when done; one line on stderr and 2 for a UsageError, 1 for a RunError."""
    try:
        action()
    except (UsageError, RunError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {with_flags(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def one_line(error: BaseException) -> str:
    """The message of another library's error, or its name, as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def counted(n: int, noun: str) -> str:
    """The number with its noun, such as "1 node" and "7 nodes"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(items: Iterable[object], conjunction: str = "and") -> str:
    """Such as "", "gan", "gan and fdiv", and "gan, fdiv and guidance"."""
    *others, last = [str(item) for item in items] or [""]
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def with_flags(message: str) -> str:
    """A message for the command line: settings that it names as in Python, `variant="fp16"`, become `--variant fp16`.

    `models` and `diffusion` know no flags.
    """
    return re.sub(r'\b(\w+)="([^"]*)"', r"--\1 \2", message)


@contextmanager
def about(flag: str) -> Iterator[None]:
    """Put a command-line flag in front of the messages of our errors raised within, and flags into them.

    Args:
        flag (`str`): such as "--resolution", and where it helps its value.
    """
    try:
        yield
    except (UsageError, RunError) as error:
        raise type(error)(f"{flag} {with_flags(str(error))}") from None


class UsageError(ValueError):
    """A flag or a file given by the user is wrong; the message names it and the remedy. Scripts exit with 2."""


class RunError(RuntimeError):
    """The run cannot go on (disk full, not-a-number loss, no network, ...). Scripts exit with 1."""


class NotFiniteError(RunError):
    """Images have values that are not finite numbers: fp16 has overflowed, or the weights are damaged.

    Attributes:
        images (`list[int]`): which of the images that were made together.
    """

    def __init__(self, message: str, images: Iterator[int] | tuple[int, ...] = (0,)):
        super().__init__(message)
        self.images = list(images)
