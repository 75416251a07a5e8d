# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Readers of a column of texts, one per kind of file.

A reader takes the file (`Path`), the name of the column, and `flag`, which its messages start with. It returns one
value per row: a text, None if the row has no text, or whatever else is in the file. It raises a UsageError if the file
has another format or lacks the column. `load_prompts` handles OSError, UnicodeDecodeError and csv.Error.
"""

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import UsageError, one_line


def read_text(path: Path, column: str, flag: str) -> list:
    """Text with one prompt per line. The column is not used."""
    return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()] or [""]


class _Object(dict):
    """A JSON object that records its duplicate keys in `twice`."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def _parsed(text):
    """Parsed JSON; a ValueError for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_Object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _reason(error):
    return getattr(error, "msg", None) or one_line(error)


def read_json_lines(path: Path, column: str, flag: str) -> list:
    """JSON lines: one object per line."""
    rows = []
    # Not splitlines(): JSON strings may hold the other line separators of Unicode.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        try:
            rows += [_parsed(line)] if line.strip() else []
        except ValueError as error:
            raise UsageError(f"{flag} has no JSON in line {number}: {_reason(error)}.") from None
    return column_of(rows, column, flag)


def read_json(path: Path, column: str, flag: str) -> list:
    """JSON: a list of texts or objects, or an object of columns. JSON lines are accepted too."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = _parsed(text)
    except ValueError as error:
        if _reason(error) == "Extra data":
            return read_json_lines(path, column, flag)
        line = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{flag} is no JSON: {_reason(error)}{line}.") from None
    if isinstance(content, dict) and isinstance(content.get(column), list):
        if column in content.twice:
            raise UsageError(f"{flag} has more than one '{column}': correct the file.")
        return content[column]
    if not isinstance(content, list):
        raise UsageError(f"{flag} must be a list of texts, or of objects with a '{column}' (--caption_column).")
    if all(isinstance(row, str | None) for row in content):
        return content
    return column_of(content, column, flag)


def column_of(rows: list, column: str, flag: str) -> list:
    """The values of one key in a list of JSON objects.

    Raises:
        UsageError: a row is not an object, or has the key twice or not at all.
    """
    for number, row in enumerate(rows, 1):
        if column in getattr(row, "twice", ()):
            raise UsageError(f"{flag} has more than one '{column}' in row {number}: correct the file.")
        if not isinstance(row, dict) or column not in row:
            have = f"it has {', '.join(map(str, row))}" if isinstance(row, dict) else "it is no object"
            raise UsageError(
                f"{flag} has no column '{column}' in row {number} ({have}): set --caption_column, or correct the file."
            )
    return [row[column] for row in rows]


def read_separated(path: Path, column: str, flag: str, delimiter: str = ",") -> list:
    """CSV with a header line.

    A row with more values than the header is an error. A row that is too short has no prompt.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        if (header := next(reader, None)) is None:
            return []
        if Counter(header)[column] != 1:
            problem = "more than one" if column in header else "no"
            other = next((sign for sign in (";", "\t", "|") if len(header) == 1 and sign in header[0]), None)
            hint = f" Its values seem to be separated by {other!r}, not {delimiter!r}." if other else ""
            raise UsageError(
                f"{flag} has {problem} column '{column}' (it has {', '.join(header)}): set --caption_column, or "
                f"correct the first line.{hint}"
            )
        place, values = header.index(column), []
        for row in filter(None, reader):
            if len(row) > len(header):
                raise UsageError(
                    f"{flag} has {len(row)} values in row {len(values) + 1} (line {reader.line_num}) for "
                    f"{len(header)} columns: quote a text that has a {SEPARATORS.get(delimiter, delimiter)} in it, "
                    '"like this, for example".'
                )
            values.append(row[place] if place < len(row) else None)
    return values


SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon"}


def read_tab_separated(path: Path, column: str, flag: str) -> list:
    """As `read_separated`, with tabs as separators."""
    return read_separated(path, column, flag, "\t")


def read_parquet(path: Path, column: str, flag: str) -> list:
    """Parquet. Only the column is read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, column, flag)
            return file.read(columns=[column]).column(column).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{flag} is no readable parquet file: {one_line(error)}") from None


def check_columns(have: list[str], column: str, flag: str) -> None:
    """Raise a UsageError if a column is missing or occurs twice."""
    if list(have).count(column) > 1:
        raise UsageError(f"{flag} has more than one column '{column}': set --caption_column, or correct the file.")
    if column not in have:
        raise UsageError(f"{flag} has no column '{column}' (it has {', '.join(have)}): set --caption_column.")


def read_tar(path: Path, column: str, flag: str) -> list:
    """A tar file of WebDataset.

    The column "text" is the .txt file of each sample. Another column is its file with that suffix, or that key of its
    .json file. The files of a sample have the same name up to the first dot. Pictures are not read.
    """
    samples, have = {}, set()
    wanted = {"text": "txt"}.get(column, column)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                key, _, suffix = name.name.partition(".")
                if not member.isfile() or not key:  # folders and hidden files
                    continue
                sample = samples.setdefault(name.parent / key, {})
                have.add(suffix)
                if suffix.lower() == wanted:
                    sample["text"] = archive.extractfile(member).read().decode("utf-8-sig")
                elif suffix.lower() == "json":
                    sample["json"] = _parsed(archive.extractfile(member).read().decode("utf-8-sig"))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f"{flag} cannot be read as a tar file: {one_line(error)}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{flag}: {member.name} is not UTF-8 text.") from None
    except ValueError as error:
        raise UsageError(f"{flag}: {member.name} is no JSON: {_reason(error)}.") from None
    values = [_value_of_sample(sample, column, f"{flag}: {name}.json") for name, sample in samples.items()]
    if samples and values.count(None) == len(values):
        have |= {key for sample in samples.values() if isinstance(sample.get("json"), dict) for key in sample["json"]}
        raise UsageError(f"{flag} has no column '{column}' (it has {', '.join(sorted(have))}): set --caption_column.")
    return values


def _value_of_sample(sample, column, flag):
    if "text" in sample:
        return sample["text"]
    row = sample.get("json")
    return column_of([row], column, flag)[0] if isinstance(row, dict) and column in row else None


READERS: dict[str, Callable[[Path, str, str], list]] = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_separated,
    ".tsv": read_tab_separated,
    ".parquet": read_parquet,
    ".tar": read_tar,
}
