# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The two kinds of failure a user is told about in one line. Anything else is a bug and keeps its traceback."""


class UsageError(ValueError):
    """A flag or a file given by the user is wrong; the message names it and the remedy. Scripts exit with 2."""


class RunError(RuntimeError):
    """The run cannot go on (disk full, not-a-number loss, no network, ...). Scripts exit with 1."""
