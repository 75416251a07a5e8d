# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import disback_diffusers


PUBLIC_NAMES = [
    "DegradationPath",
    "DisBackPipeline",
    "DistillationArguments",
    "NoiseSchedule",
    "Roles",
    "RunError",
    "UsageError",
    "denoising_loss",
    "distill",
    "distribution_matching_gradient",
    "mismatch_degree",
    "stable_target_score",
]


def test_import_is_light():
    code = (
        "import sys, disback_diffusers; dir(disback_diffusers); disback_diffusers.UsageError;"
        "print(*sorted({'torch', 'diffusers', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert loaded == ""


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name(name):
    assert getattr(disback_diffusers, name).__name__ == name
    assert name in dir(disback_diffusers)


def test_all_is_the_contract():
    assert sorted(disback_diffusers.__all__) == sorted([*PUBLIC_NAMES, "__version__"])


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'disback_diffusers' has no attribute 'Teacher'"):
        disback_diffusers.Teacher


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(disback_diffusers.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {alias.asname: f".{line.module}" for line in block.body for alias in line.names}
    assert seen == disback_diffusers._MODULE_OF
