# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A file is complete or absent, and a disk that refuses is reported in one line."""

import os
import stat
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from disback_diffusers import RunError
from disback_diffusers.files import atomic_write


TENSORS = {"x": torch.zeros(100_000)}
WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(400_000)),
    "torch": lambda path: torch.save(TENSORS, path),
    "safetensors": lambda path: save_file(TENSORS, path),
}


@contextmanager
def full_disk(limit=10_000):
    """No file grows beyond `limit` bytes: the write that would make it do so fails, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", WRITERS)
def test_writes_and_replaces(tmp_path, writer):
    file = tmp_path / "new" / "folder" / "file.bin"
    atomic_write(file, lambda path: path.write_bytes(b"old"))
    assert file.read_bytes() == b"old"
    atomic_write(file, WRITERS[writer])
    assert file.stat().st_size >= 400_000 and os.listdir(file.parent) == ["file.bin"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("writer", WRITERS)
def test_others_may_read_what_the_umask_allows(tmp_path, writer):
    file = tmp_path / "file.bin"
    before = os.umask(0o027)
    try:
        atomic_write(file, WRITERS[writer])
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, writer):
    file = tmp_path / "file.bin"
    file.write_bytes(b"old")
    with full_disk(), pytest.raises(RunError) as error:
        atomic_write(file, WRITERS[writer])
    message = str(error.value)
    assert str(file) in message and "space" in message and "\n" not in message
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, writer):
    (tmp_path / "taken").write_bytes(b"")
    for file in (tmp_path / "taken" / "file.bin", tmp_path / ("n" * 300)):
        with pytest.raises(RunError) as error:
            atomic_write(file, WRITERS[writer])
        message = str(error.value)
        assert str(file) in message and "may be written" in message and "\n" not in message
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), KeyError("x"), RuntimeError("CUDA error"), torch.OutOfMemoryError("open file")]
)
def test_what_is_no_failure_to_write_passes_through(tmp_path, error):
    file = tmp_path / "file.bin"
    file.write_bytes(b"old")

    def write(path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as raised:
        atomic_write(file, write)
    assert raised.value is error
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.bin"]


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    file, calls = tmp_path / "file.bin", []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def spied_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    atomic_write(file, WRITERS["bytes"])
    assert calls == [400_000, "replace", "folder"]
