# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The LoRA that the teacher of a LoRA student had: it is saved beside the student and added to the base before it."""

import shutil
from pathlib import Path

from diffusers import DiffusionPipeline

from ..errors import UsageError, about
from ..files import TEACHER_LORA_NAME, atomic_write
from ..models.lora_file import LoraFile
from ..models.text_lora import fuse_into_text_encoders


def save_teacher_lora(folder: Path, lora: LoraFile) -> None:
    """Copy the file, whatever its key style, into a student's folder.

    Raises:
        RunError: it cannot be written.
    """
    atomic_write(Path(folder) / TEACHER_LORA_NAME, lambda temporary: shutil.copyfile(lora.file, temporary))


def fuse_teacher_lora(pipe: DiffusionPipeline, source: str, folder: Path, strength: float) -> None:
    """Add the LoRA of a student's folder to the weights of its base, the UNet and text encoders.

    Args:
        pipe (`DiffusionPipeline`): of the base model, without adapters.
        source (`str`): the student, for the messages. folder (`Path`): with its files.
        strength (`float`): as in training.

    Raises:
        UsageError: the file is missing or damaged, or does not fit; or the weights cannot be changed.
    """
    file = Path(folder) / TEACHER_LORA_NAME
    if not file.is_file():
        raise UsageError(f"{source} lacks {TEACHER_LORA_NAME}, the LoRA of its teacher: restore it.")
    if any(p.is_meta or not p.is_floating_point() for p in pipe.unet.parameters()):
        raise UsageError(
            f"{source} has the LoRA of its teacher in {TEACHER_LORA_NAME}, which cannot be added to a quantised or "
            "offloaded UNet: load it without, and offload the pipeline afterwards."
        )
    lora = LoraFile(str(file), pipe.unet.config, may_adapt_text=True)
    lora.fuse_into(pipe.unet, strength)
    with about(lora.source):
        fuse_into_text_encoders(pipe, lora.text, strength)
