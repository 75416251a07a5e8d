# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The LoRA that the teacher of a LoRA student had: it is saved beside the student and added to the base before it."""

import shutil
from pathlib import Path

import torch

from ..errors import UsageError
from ..files import TEACHER_LORA_NAME, atomic_write
from ..models.lora_file import LoraFile


def save_teacher_lora(folder: Path, lora: LoraFile) -> None:
    """Copy the file, whatever its key style, into a student's folder.

    Raises:
        RunError: it cannot be written.
    """
    atomic_write(Path(folder) / TEACHER_LORA_NAME, lambda temporary: shutil.copyfile(lora.file, temporary))


def fuse_teacher_lora(unet: torch.nn.Module, source: str, folder: Path, strength: float) -> None:
    """Add the LoRA of a student's folder to the weights of its base.

    Args:
        unet (`torch.nn.Module`): of the base model, without adapters.
        source (`str`): the student, for the messages. folder (`Path`): with its files.
        strength (`float`): as in training.

    Raises:
        UsageError: the file is missing or damaged, or does not fit; or the weights cannot be changed.
    """
    file = Path(folder) / TEACHER_LORA_NAME
    if not file.is_file():
        raise UsageError(f"{source} lacks {TEACHER_LORA_NAME}, the LoRA of its teacher: restore it.")
    if any(p.is_meta or not p.is_floating_point() for p in unet.parameters()):
        raise UsageError(
            f"{source} has the LoRA of its teacher in {TEACHER_LORA_NAME}, which cannot be added to a quantised or "
            "offloaded UNet: load it without, and offload the pipeline afterwards."
        )
    LoraFile(str(file), unet.config).fuse_into(unet, strength)
