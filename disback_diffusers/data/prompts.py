# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Reading prompts from a file, a folder or a dataset on the Hub."""

import csv
import json
import logging
from collections import Counter
from pathlib import Path

from ..errors import UsageError, one_line
from ..models.embedded import EMBEDDED, PROMPTS


logger = logging.getLogger(__name__)
FORMATS = "a .txt, .jsonl, .json, .csv, .tsv, .parquet or .tar file, a dataset's folder, or a Hub dataset"


def load_prompts(source: str, column: str = "text", flag: str = "--prompt_dataset") -> list[str]:
    """The prompts of a file, of a folder with a dataset, or of a Hub dataset's training split.

    Args:
        source (`str`): a .txt file (a prompt a line); a .jsonl, .json, .csv, .tsv or .parquet file; a .tar file of
            WebDataset; a folder that `datasets` has saved, or can load; a Hub id; or "embedded".
        column (`str`): column of the prompts, in all but .txt. In a .tar file "text" is the samples' .txt, and other
            names are keys of their .json.
        flag (`str`): the flag to name in messages.

    Returns:
        `list[str]`: stripped, in the order of the source. Rows without a prompt are left out; a warning says how many.

    Raises:
        UsageError: no such file or dataset, not text, no such column, or no prompt in it; names the `flag`.
    """
    path = PROMPTS if source == EMBEDDED else Path(source).expanduser()
    flag, read = f"{flag} {source}", READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            values = _folder(path, column, flag)
        elif path.is_file() and read is None:
            raise UsageError(f"{flag}: expected {FORMATS}.")
        elif path.is_file():
            values = read(path, column, flag)
        elif read or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
            raise UsageError(f"{flag}: No such file or folder.")
        else:
            values = _hub_dataset(source, column, flag)
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag} is no UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except csv.Error as error:
        raise UsageError(f"{flag} is no readable CSV file: {error}.") from None
    except OSError as error:
        raise UsageError(f"{flag}: {error.strerror or one_line(error)}") from None
    return _checked(values, column, flag)


def _checked(values, column, flag):
    """Stripped texts of an iterable of texts and None."""
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


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _text_lines(path, column, flag):
    return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()] or [""]


def _json_lines(path, column, flag):
    rows = []
    # Not splitlines(): JSON strings may hold the other line separators of Unicode.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        try:
            rows += [json.loads(line, object_pairs_hook=_Object)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UsageError(f"{flag} has no JSON in line {number}: {error.msg}.") from None
    return _column(rows, column, flag)


def _json(path, column, flag):
    """A list of texts or of objects, or an object of columns; or JSON lines under this suffix."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(path, column, flag)
        raise UsageError(f"{flag} is no JSON: {error.msg} in line {error.lineno}.") from None
    if isinstance(content, dict) and isinstance(content.get(column), list):
        return content[column]
    if not isinstance(content, list):
        raise UsageError(f"{flag} must be a list of texts, or of objects with a '{column}' (--caption_column).")
    if all(isinstance(row, str | None) for row in content):
        return content
    return _column(content, column, flag)


class _Object(dict):
    """A JSON object that knows which of its keys it has twice."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def _column(rows, column, flag):
    for number, row in enumerate(rows, 1):
        if column in getattr(row, "twice", ()):
            raise UsageError(f"{flag} has more than one '{column}' in row {number}: correct the file.")
        if not isinstance(row, dict) or column not in row:
            have = f"it has {', '.join(map(str, row))}" if isinstance(row, dict) else "it is no object"
            raise UsageError(
                f"{flag} has no column '{column}' in row {number} ({have}): set --caption_column, or correct the file."
            )
    return [row[column] for row in rows]


def _separated(delimiter):
    def read(path, column, flag):
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            if (header := next(reader, None)) is None:
                return []
            if Counter(header)[column] != 1:
                problem = "more than one" if column in header else "no"
                raise UsageError(
                    f"{flag} has {problem} column '{column}' (it has {', '.join(header)}): set --caption_column, or "
                    "correct the first line."
                )
            place, values = header.index(column), []
            for row in filter(None, reader):
                if len(row) > len(header):
                    raise UsageError(
                        f"{flag} has {len(row)} values in row {len(values) + 1} (line {reader.line_num}) for "
                        f"{len(header)} columns: quote a text that has a {'tab' if delimiter != ',' else 'comma'} in "
                        'it, "like this, for example".'
                    )
                values.append(row[place] if place < len(row) else None)
        return values

    return read


def _parquet(path, column, flag):
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, column, flag)
            return file.read(columns=[column]).column(column).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{flag} is no readable parquet file: {one_line(error)}") from None


def _tar(path, column, flag):
    data = _loaded(flag, "webdataset", data_files={"train": str(path)}, streaming=True)
    return _webdataset(data, column, flag)


READERS = {
    ".txt": _text_lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
    ".tar": _tar,
}

# ---------------------------------------------------------------------------------------------------------------------
# Folders and the Hub, read by `datasets`


def _loaded(flag, *args, **kwargs):
    from datasets import load_dataset

    try:
        return load_dataset(*args, split="train", **kwargs)
    except Exception as error:  # datasets raises many kinds, from connection errors to pyarrow's
        raise UsageError(f"{flag} cannot be loaded: {one_line(error)}") from None


def _folder(path, column, flag):
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved_dataset(path, column, flag)
    data = _loaded(flag, str(path), streaming=True)  # without a copy in the cache
    if "__key__" in (data.column_names or ()):
        return _webdataset(data, column, flag)
    return _dataset_column(data, column, flag)


def _saved_dataset(path, column, flag):
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written."""
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # as above
        raise UsageError(f"{flag} cannot be loaded: {one_line(error)}") from None
    if isinstance(data, DatasetDict):
        split = "train" if "train" in data else next(iter(data), None)
        if split is None or (split != "train" and len(data) > 1):
            raise UsageError(f"{flag} has the splits {', '.join(data)}, but no train: give the folder of one of them.")
        data = data[split]
    return _dataset_column(data, column, flag)


def _hub_dataset(source, column, flag):
    return _dataset_column(_loaded(flag, source), column, flag)


def _dataset_column(data, column, flag):
    try:
        have = data.column_names or list(next(iter(data), ()))  # a streamed dataset may not know them beforehand
        _check_columns(have, column, flag)
        return [row[column] for row in data.select_columns([column])]
    except UsageError:
        raise
    except Exception as error:  # as above, for what is only read now
        raise UsageError(f"{flag} cannot be read: {one_line(error)}") from None


def _webdataset(data, column, flag):
    """The .txt of each sample for "text", else a key of its .json, or its file of another suffix."""
    column = "txt" if column == "text" and "text" not in data.column_names else column
    if column not in data.column_names and "json" in data.column_names:
        return _column(_dataset_column(data, "json", flag), column, flag)
    return _dataset_column(data, column, flag)


def _check_columns(have, column, flag):
    if list(have).count(column) > 1:
        raise UsageError(f"{flag} has more than one column '{column}': set --caption_column, or correct the file.")
    if column not in have:
        raise UsageError(f"{flag} has no column '{column}' (it has {', '.join(have)}): set --caption_column.")
