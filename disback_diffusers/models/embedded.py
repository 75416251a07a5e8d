# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The embedded teacher: a tiny Stable Diffusion (32x32 emoji) in the package, with its prompts and its judge."""

import os
from pathlib import Path


EMBEDDED = "embedded"
FOLDER = Path(__file__).parent.parent / "embedded"
PROMPTS = FOLDER / "prompts.txt"
JUDGE = FOLDER / "judge"
REFERENCE = FOLDER / "reference.safetensors"


def resolve(name_or_path: str | os.PathLike) -> str:
    """The folder of the embedded teacher for the name "embedded"; of another folder or Hub id the name, with ~."""
    return str(FOLDER / "teacher") if str(name_or_path) == EMBEDDED else os.path.expanduser(name_or_path)
