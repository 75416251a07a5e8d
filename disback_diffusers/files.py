# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Writing files whole or not at all, with an error of one line where the disk is full."""

import errno
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from .errors import RunError


LORA_NAME = "pytorch_lora_weights.safetensors"  # as diffusers names a LoRA's file
TEACHER_LORA_NAME = "teacher_lora.safetensors"  # a LoRA that the base of a LoRA student has
CONFIG_NAME = "disback_config.json"  # of a student: how it is loaded and called
BEST_FOLDER = "best"  # of a run: the student with the lowest value of a metric
LOG = "log.jsonl"  # of a run: a line a logged step
DIGESTED = 1 << 20  # bytes of either end of a weights file: enough to distinguish two trainings

# What torch.save says, as a bare RuntimeError, when the file system refuses.
_TORCH_WRITE_ERRORS = ("PytorchStreamWriter", "iostream error", "unexpected pos", "open file failed")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomic_write(path: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Write a file that appears under its name complete, or not at all; an older one of that name stays until then.

    Args:
        path: The file to write. Missing parent folders are made.
        write: Called with a temporary path in the same folder (with another suffix: a writer that chooses a format by
            suffix needs to know it), where it has to leave the content.

    Raises:
        RunError: The file cannot be written: disk full, no permission, read-only file system. Whatever else `write`
            raises passes through. The temporary file is removed in every case.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        usual_mode(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        if os.name == "posix":
            _sync(path.parent)  # the new name, too, survives a power cut
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TORCH_WRITE_ERRORS):
            raise
        reason = " ".join(str(error).splitlines()[:1])
        raise RunError(f"{path} cannot be written ({reason}): {_remedy(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def user_path(text: str) -> Path:
    """A path from the command line, of which ~ is the home folder (the shell leaves it in `--flag=~/file`)."""
    return Path(text).expanduser()


def weights_digest(folder: str | os.PathLike) -> str | None:
    """A hash of the names, sizes, first and last bytes of a folder's safetensors files; None without a folder."""
    if not Path(folder).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*.safetensors")):
        place = file.relative_to(folder)
        if place.parts[0].startswith(("checkpoint-", "degradation")):
            continue  # of a run that may still be going
        digest.update(f"{place.as_posix()} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(DIGESTED))
            opened.seek(max(0, file.stat().st_size - DIGESTED))
            digest.update(opened.read())
    return digest.hexdigest()


def usual_mode(file: Path) -> None:
    """Give a file the permissions of a plain `open`: safetensors makes its files readable to no one else."""
    umask = os.umask(0)  # which can only be read by setting it
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: Exception) -> str:
    in_text = re.search(r"os error (\d+)", str(error))  # all that safetensors reports
    number = int(in_text.group(1)) if in_text else getattr(error, "errno", None)
    if number in NO_ROOM:
        return "free space on that disk (or raise the quota) and resume."
    if number is not None:
        return "check that the folder exists and may be written, or choose another one."
    return "check the free space on that disk and that the folder may be written."
