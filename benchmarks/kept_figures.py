# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Figures of the embedded teacher, measured once: they are the same for every student that is compared with it.

They are written to results/embedded_teacher_kept.json by

    python benchmarks/embedded_teacher.py --keep --teacher_guidance 1 2 3

and hold for the very files of the teacher, of its judge and of the prompts, which is checked by their hash.
"""

import hashlib
import json
from pathlib import Path

from disback_diffusers.models.embedded import FOLDER


KEPT = Path(__file__).parent / "results" / "embedded_teacher_kept.json"
SUFFIXES = (".json", ".safetensors", ".txt")
FIGURES = ("FD", "top-10 retrieval")  # seconds are of the machine, so they are measured each time


def embedded_hash():
    """SHA-256 (hex) of the names and contents of all files of the embedded teacher, its judge and its prompts."""
    digest, files = hashlib.sha256(), (file for file in FOLDER.rglob("*") if file.suffix in SUFFIXES)
    for file in sorted(files):
        digest.update(f"{file.relative_to(FOLDER).as_posix()} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept_figures(seed, width):
    """The figures by label (`dict`); none where they are of other files, noise or images."""
    if not KEPT.is_file():
        return {}
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if (kept["sha256"], kept["seed"], kept["width"]) != (embedded_hash(), seed, width):
        return {}
    return {row["model"]: {name: row[name] for name in FIGURES} for row in kept["rows"]}
