# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Reads a column of texts from a folder or the Hub. `datasets` finds the files, and `prompt_files` reads them."""

import logging
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from ..errors import UsageError, one_line
from ..hub_errors import TOKEN
from .prompt_files import READERS, check_columns, column_of, read_json_lines, read_separated


logger = logging.getLogger(__name__)
FILE_BUILDERS = ("csv", "json", "text", "parquet")  # builders of `datasets` whose files have only texts


def read_folder(path: Path, column: str, flag: str) -> list:
    """The column of a folder: a dataset that `save_to_disk` wrote, or files. Only the training split is read.

    Args:
        path (`Path`): the folder.
        column (`str`): name of the column.
        flag (`str`): start of the messages.

    Raises:
        UsageError: it cannot be read, or has no such column or training split.
    """
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved_dataset(path, column, flag)
    builder = _called(flag, "load_dataset_builder", str(path))
    files = [Path(file) for file in _training_files(builder, flag)]
    if builder.name not in (*FILE_BUILDERS, "webdataset"):
        return _column(_called(flag, "load_dataset", str(path), split="train", streaming=True), column, flag)
    _say_what_is_left_out(path, builder, files, flag)
    return _read_files([(file, file.relative_to(path)) for file in files], builder, column, flag)


def read_hub_dataset(source: str, column: str, flag: str) -> list:
    """The column of the training split of a dataset on the Hub. Text files are read in the same way as local ones.

    Args:
        source (`str`): the Hub id.
        column (`str`), flag (`str`): as in `read_folder`.

    Raises:
        UsageError: as in `read_folder`.
    """
    builder = _called(flag, "load_dataset_builder", source)
    if builder.name not in FILE_BUILDERS or not (builder.config.data_files or {}).get("train"):
        return _column(_called(flag, "load_dataset", source, split="train"), column, flag)
    from datasets import DownloadManager

    names = _training_files(builder, flag)
    try:
        paths = DownloadManager(dataset_name=source).download_and_extract(names)
    except Exception as error:  # of several libraries
        raise UsageError(f"{flag} cannot be downloaded: {_why(error)}") from None
    files = [(Path(path), name.rpartition("/")[2]) for path, name in zip(paths, names, strict=True)]
    return _read_files(files, builder, column, flag)


def _read_files(files, builder, column, flag):
    values = []
    for path, name in files:
        suffix = next((part for part in reversed(Path(name).suffixes) if part.lower() in READERS), "").lower()
        read = READERS.get(suffix, READERS[".txt"] if builder.name == "text" else None)
        where = f"{flag}: {name}"
        if builder.name == "csv" and (suffix in ("", ".csv") or builder.config.sep not in (",", "\t")):
            values += read_separated(path, column, where, builder.config.sep)
        elif builder.name == "json" and suffix not in (".json", ".jsonl"):
            values += read_json_lines(path, column, where)
        elif read is None:
            raise UsageError(f"{where} is not read: expected {', '.join(READERS)}.")
        else:
            values += read(path, column, where)
    return values


def _training_files(builder, flag):
    splits = builder.config.data_files or {}
    if builder.name in (*FILE_BUILDERS, "webdataset") and not splits.get("train"):
        raise UsageError(f"{flag} has files of the splits {', '.join(map(str, splits))}, but none of train.")
    return list(splits.get("train", ()))


def _say_what_is_left_out(folder, builder, files, flag):
    """Warn about files that `datasets` silently skips: it takes the most common kind of file only."""
    taken = {Path(file).resolve() for split in builder.config.data_files.values() for file in split} | set(files)
    present = [file for file in folder.rglob("*") if file.suffix.lower() in READERS and file.is_file()]
    left_out = [file for file in present if file.resolve() not in taken and not _is_hidden(file.relative_to(folder))]
    if left_out:
        logger.warning(
            f"{flag}: {len(left_out):,} file(s) of another kind are left out, such as "
            f"{left_out[0].relative_to(folder)}: give them as a folder of their own."
        )


def _is_hidden(path):
    return any(part.startswith((".", "__")) for part in path.parts)


def _called(flag, function, *args, **kwargs):
    import datasets

    try:
        return getattr(datasets, function)(*args, **kwargs)
    except Exception as error:  # datasets raises many kinds, from connection errors to those of pyarrow
        raise UsageError(f"{flag} cannot be loaded: {_why(error)}") from None


def _why(error):
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    if any(isinstance(cause, HfHubHTTPError) and cause.response.status_code == 401 for cause in causes):
        return f"the Hub does not accept {TOKEN}."
    return one_line(error)


def _saved_dataset(path, column, flag):
    """The column of a dataset that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    from datasets import DatasetDict

    data = _called(flag, "load_from_disk", str(path))
    if isinstance(data, DatasetDict):
        split = "train" if "train" in data else next(iter(data), None)
        if split is None or (split != "train" and len(data) > 1):
            raise UsageError(f"{flag} has the splits {', '.join(data)}, but no train: give the folder of one of them.")
        data = data[split]
    return _column(data, column, flag)


def _column(data, column, flag):
    """The column of a dataset; of a WebDataset from the Hub as in `read_tar`."""
    try:
        have = data.column_names or list(next(iter(data), ()))  # a streamed dataset may not know its columns
        if "__key__" in have and column not in have:
            column = "txt" if column == "text" and "txt" in have else column
            if column not in have and "json" in have:
                return column_of([row["json"] for row in data.select_columns(["json"])], column, flag)
        check_columns(have, column, flag)
        return [row[column] for row in data.select_columns([column])]
    except UsageError:
        raise
    except Exception as error:  # as above: streamed data is only read now
        raise UsageError(f"{flag} cannot be read: {_why(error)}") from None
