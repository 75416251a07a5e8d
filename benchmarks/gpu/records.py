# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The JSON files of results: there as a whole or not at all, and never a worse result over a better one."""

import json
import os
from pathlib import Path


COMPLETE = "complete"


def file_name(part):
    return f"gpu_{part}.json"


def read(folder, part):
    """The record of a part, or None."""
    try:
        record = json.loads((Path(folder) / file_name(part)).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else None
    except (OSError, ValueError):
        return None


def is_complete(record):
    return record is not None and record.get("status") == COMPLETE


def write(folder, record):
    """Write the record of a part; True if it was.

    A complete one is only replaced by another complete one, unless it is a rehearsal's.
    """
    folder, before = Path(folder), read(folder, record["part"])
    if is_complete(before) and not is_complete(record) and before.get("rehearsal") == record["rehearsal"]:
        return False
    if record["rehearsal"] and before and not before.get("rehearsal"):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{file_name(record['part'])}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False, default=str) + "\n", encoding="utf-8")
        os.replace(temporary, folder / file_name(record["part"]))
    finally:
        temporary.unlink(missing_ok=True)
    return True
