# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts share: logging, and failures as one line and an exit code."""

import logging
import os
import sys
from collections.abc import Callable

import torch

from ..errors import RunError, UsageError
from ..files import NO_ROOM
from ..models.families.base import Family
from .arguments import DistillationArguments
from .distill import distill
from .trainer import RESUME, Interrupted


OUT_OF_MEMORY = (
    "out of GPU memory: try a smaller --train_batch_size with more --gradient_accumulation_steps, "
    "--gradient_checkpointing, --mixed_precision bf16, or a smaller --lora_rank."
)
NOISY = ("httpx", "httpx2", "datasets", "matplotlib")  # an HTTP client of each huggingface_hub


def run_script(parse_args: Callable[[], DistillationArguments], *families: type[Family]) -> int:
    """`main` of a training script.

    Args:
        parse_args: reads the command line.
        families: those of the teachers that the script is for.

    Returns:
        0 when done, 2 for a wrong flag or file, 1 for a failed run, 130 if interrupted.
    """
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        distill(parse_args(), families or None)
        return 0
    except UsageError as error:
        return _fail(f"error: {error}", 2)
    except Interrupted as error:
        return _fail(error, 130) if is_main else 130  # all processes stop alike
    except KeyboardInterrupt:
        return _fail(f"Stopped at once. {RESUME}", 130)
    except torch.OutOfMemoryError:
        return _fail(f"error: {OUT_OF_MEMORY}", 1)
    except RunError as error:
        return _fail(f"error: {error}", 1)
    except OSError as error:  # of a tracker's files; our own raise a RunError
        if error.errno not in NO_ROOM:
            raise
        return _fail(f"error: a file cannot be written ({error}): free space on that disk and resume.", 1)


def _fail(message, code):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    return code
