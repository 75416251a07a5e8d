# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a user without this checkout gets: everything must be in the wheel."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import disback_diffusers


ROOT = Path(__file__).parent.parent
FOLDERS = {
    "disback_diffusers": "disback_diffusers",
    "pipelines": "disback_diffusers/pipelines",
    "model_cards": "disback_diffusers/model_cards",
}


def source_files(folder):
    files = (file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.as_posix() for file in files if "__pycache__" not in file.parts}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    # Built from a copy, as building writes into the tree, and with the setuptools at hand, as there may be no network.
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (wheel,) = (copy / "dist").glob("*.whl")
    assert wheel.name.startswith(f"disback_diffusers-{disback_diffusers.__version__}-py3-none-any")
    return set(ZipFile(wheel).namelist())


@pytest.mark.parametrize("folder, installed", FOLDERS.items())
def test_every_file_is_in_the_wheel(wheel_files, folder, installed):
    expected = {f"{installed}/{file}" for file in source_files(folder)}
    assert expected, f"nothing in {folder}/"
    assert expected - wheel_files == set()


def test_wheel_holds_the_embedded_teacher_and_the_licence(wheel_files):
    assert "disback_diffusers/embedded/teacher/model_index.json" in wheel_files
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in wheel_files)


def test_wheel_holds_nothing_else(wheel_files):
    tops = {file.split("/")[0] for file in wheel_files}
    assert tops == {"disback_diffusers", f"disback_diffusers-{disback_diffusers.__version__}.dist-info"}
