# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Loads prompts from a file, a folder or a dataset on the Hub."""

import csv
import logging
import os
from pathlib import Path

from ..errors import UsageError, one_line
from ..models.embedded import EMBEDDED, PROMPTS
from .prompt_datasets import read_folder, read_hub_dataset
from .prompt_files import READERS


logger = logging.getLogger(__name__)
FORMATS = "a .txt, .jsonl, .json, .csv, .tsv, .parquet or .tar file, a dataset's folder, or a Hub dataset"


def load_prompts(source: str, column: str = "text", flag: str = "--prompt_dataset") -> list[str]:
    """The prompts of a file, of a dataset in a folder, or of the training split of a dataset on the Hub.

    Args:
        source (`str`): a .txt file (one prompt per line); a .jsonl, .json, .csv, .tsv or .parquet file; a .tar file of
            WebDataset; a folder that `datasets` saved or can load; a Hub id; or "embedded".
        column (`str`): column of the prompts, except in .txt files. In a .tar file "text" is the .txt of each sample,
            and other names are keys of its .json.
        flag (`str`): the flag to name in messages.

    Returns:
        `list[str]`: the stripped prompts, in the order of the source. Rows without a prompt are left out, and a
            warning says how many.

    Raises:
        UsageError: the source does not exist, is not text, or has no such column or no prompts; names the `flag`.
    """
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise UsageError(f"{flag} must be {FORMATS}.")
    source = os.fspath(source)
    path = PROMPTS if source == EMBEDDED else Path(source).expanduser()
    flag, read = f"{flag} {source}", READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            values = read_folder(path, column, flag)
        elif path.is_file() and read is None:
            raise UsageError(f"{flag}: expected {FORMATS}.")
        elif path.is_file():
            values = read(path, column, flag)
        elif read or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
            raise UsageError(f"{flag}: No such file or folder.")
        else:
            values = read_hub_dataset(source, column, flag)
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag} is no UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except csv.Error as error:
        raise UsageError(f"{flag} is no readable CSV file: {error}.") from None
    except OSError as error:
        raise UsageError(f"{flag}: {error.strerror or one_line(error)}") from None
    return _checked(values, column, flag)


def _checked(values, column, flag):
    """The stripped texts of an iterable of texts and None; a UsageError for other values."""
    prompts, rows = [], 0
    for rows, value in enumerate(values, 1):
        if value is None:
            continue
        if not isinstance(value, str):
            raise UsageError(
                f"{flag}: column '{column}' is no text in row {rows}: set --caption_column, or correct the file."
            )
        if "\0" in value:
            raise UsageError(f"{flag} is a binary file, or has a zero byte in row {rows}: prompts must be text.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = value[error.start : error.end].encode("ascii", "backslashreplace").decode()
            raise UsageError(
                f"{flag}: row {rows} has {found}, which is half a character (a lone surrogate): correct it."
            ) from None
        if value := value.strip():
            prompts.append(value)
    if not rows:
        raise UsageError(f"{flag} holds no prompt: it is empty.")
    if not prompts:
        raise UsageError(f"{flag} holds no prompt.")
    if rows > len(prompts):
        logger.warning(f"{flag}: {rows - len(prompts):,} of {rows:,} rows have no prompt and are left out.")
    return prompts
