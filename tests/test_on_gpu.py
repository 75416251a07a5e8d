# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/on_gpu.sh: its rehearsal, and parts that fail, hang or are cut off."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # as for a script there

import on_gpu  # noqa: E402
from gpu import models, records, wheels  # noqa: E402
from gpu.environment import canonical, name_of, requirements  # noqa: E402
from gpu.processes import Part  # noqa: E402


NAMES = [part.name for part in on_gpu.PARTS]
CARD = "a card"


def rehearse(folder, *words):
    command = ["bash", str(BENCHMARKS / "on_gpu.sh"), "--rehearse", "--output", str(folder), *words]
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(folder / "out")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def numbers(value):
    """All numbers in nested dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


@pytest.mark.slow
def test_rehearsal_again_and_again(tmp_path):
    run = rehearse(tmp_path, "--minutes", "0")
    assert run.returncode == 1 and all(name in run.stderr for name in NAMES)
    for name in NAMES:
        assert records.read(tmp_path, name)["status"] == "not run: no time was left"

    run = rehearse(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(map(records.file_name, NAMES))
    for name in NAMES:
        record = records.read(tmp_path, name)
        assert (record["status"], record["rehearsal"], record["device"]) == ("complete", True, "CPU")
        assert record["versions"]["torch"] and record["card"] and record["date"] and record["summary"]
        found = numbers(record["results"])
        assert len(found) > 1 and all(map(math.isfinite, found)), name
        assert f"{records.file_name(name)} " in run.stdout

    before = {name: records.read(tmp_path, name) for name in NAMES}
    run = rehearse(tmp_path, "--minutes", "0")
    assert run.returncode == 1 and run.stdout.count("keeps the complete result of before") >= len(NAMES)
    assert {name: records.read(tmp_path, name) for name in NAMES} == before


# ---------------------------------------------------------------------------------------------------------------------
# Parts that do not end well


@pytest.fixture
def run_parts(tmp_path, monkeypatch):
    """A function that runs functions of parts_that_end.py and returns how they ended."""
    monkeypatch.setattr(on_gpu, "MODULES", ["gpu.lab"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(on_gpu.MODULES)
    process = context.Process(target=int)  # the first one waits for the imports, the others start at once
    process.start()
    process.join()
    work = tmp_path / "work"
    work.mkdir()
    environment = SimpleNamespace(work=work, left_out={}, card=CARD, versions={}, paths=lambda packages: [])

    def run(*names, minutes=1.0, limit=60):
        schedule = on_gpu.Schedule(environment, True, [tmp_path / "results"], minutes, time.monotonic())
        return schedule.run([Part(name, f"parts_that_end:{name}", limit) for name in names])

    return run


def test_a_part_does_not_stop_the_others(run_parts, tmp_path, capsys):
    statuses = run_parts("fails", "dies", "is_too_large", "measures_nothing", "is_missing", "succeeds")
    assert statuses == {
        "fails": "failed: RuntimeError: no such thing",
        "dies": "failed: its process ended with code -9",
        "is_too_large": "left out: the card is too small",
        "measures_nothing": "failed: ValueError: result/value is nan",
        "is_missing": "failed: AttributeError: module 'parts_that_end' has no attribute 'is_missing'",
        "succeeds": "complete",
    }
    for name, status in statuses.items():
        assert records.read(tmp_path / "results", name)["status"] == status
    assert records.read(tmp_path / "results", "fails")["results"] == {"value": 1.5}
    record = records.read(tmp_path / "results", "succeeds")
    assert (record["results"], record["settings"], record["summary"]) == ({"value": 1.5}, {"size": 3}, ["a line"])
    assert "and a second line" in capsys.readouterr().out  # of the traceback


def test_a_run_that_is_cut_off_keeps_what_it_has(run_parts, tmp_path):
    statuses = run_parts("succeeds", "hangs", "fails", minutes=0.1)
    assert statuses["succeeds"] == "complete"
    assert statuses["hangs"].startswith("cut off after ")
    assert statuses["fails"] == "not run: no time was left"
    assert records.read(tmp_path / "results", "hangs")["results"] == {"value": 1.5}


def test_a_part_has_its_own_limit(run_parts):
    statuses = run_parts("hangs", "succeeds", limit=3)
    assert statuses == {"hangs": "cut off after 3 s", "succeeds": "complete"}


def test_a_complete_result_is_kept(run_parts, tmp_path):
    complete = {"part": "fails", "status": "complete", "rehearsal": True, "results": {"value": 2}}
    assert records.write(tmp_path / "results", complete)
    statuses = run_parts("fails", "succeeds")
    assert statuses["fails"].startswith("failed: RuntimeError: no such thing; ")
    assert records.read(tmp_path / "results", "fails") == complete
    run_parts("succeeds")
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["gpu_fails.json", "gpu_succeeds.json"]


def test_a_rehearsal_never_replaces_a_measurement(tmp_path):
    measured = {"part": "demo", "status": "failed: no reason", "rehearsal": False}
    assert records.write(tmp_path, measured)
    assert not records.write(tmp_path, {"part": "demo", "status": "complete", "rehearsal": True})
    assert records.read(tmp_path, "demo") == measured


def test_a_second_call_begins_with_what_the_first_one_lacks(tmp_path):
    for name, card in (("sdxl_24gb", CARD), ("sd15_24gb", CARD), ("sdxl_80gb", "another card")):
        records.write(tmp_path, {"part": name, "status": "complete", "rehearsal": False, "card": card})
    (tmp_path / records.file_name("textbook")).write_text("{")
    order = [part.name for part in on_gpu.missing_first(on_gpu.PARTS, tmp_path, CARD)]
    assert order == [*NAMES[2:], "sdxl_24gb", "sd15_24gb"]


# ---------------------------------------------------------------------------------------------------------------------
# Full size


def millions(cls, config):
    with torch.device("meta"):
        return round(sum(parameter.numel() for parameter in cls(config).parameters()) / 1e6, 2)


def test_models_have_their_full_size():
    for family, unet, text in (("sd15", 859.52, [123.06]), ("sdxl", 2567.46, [123.06, 694.66])):
        config = models.config_of(family)
        assert millions(UNet2DConditionModel.from_config, config["unet"]) == unet
        assert millions(AutoencoderKL.from_config, config["vae"]) == 83.65
        encoders = (CLIPTextModel, CLIPTextModelWithProjection)
        found = [millions(cls, CLIPTextConfig(**values)) for cls, values in zip(encoders, config["text"])]
        assert found == text


# ---------------------------------------------------------------------------------------------------------------------
# Wheels


def make_wheel(folder, name, version, requires=(), files=()):
    wheel, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    with ZipFile(wheel, "w") as opened:
        for file in files:
            opened.writestr(file, "content")
        opened.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        opened.writestr(f"{info}/RECORD", "".join(f"{file},sha256=x,7\n" for file in files))
    return wheel


def needed():
    """Names in wheels.txt."""
    lines = (BENCHMARKS / "gpu" / "wheels.txt").read_text().splitlines()
    return [name_of(line) for line in lines if not line.startswith("#")]


def test_the_image_and_the_wheels_have_all_that_is_required():
    there = {*wheels.image_packages(), *map(canonical, needed())}
    assert {canonical(name_of(text)) for text in requirements()} - there == set()


def test_wheels_that_would_not_do_are_refused(tmp_path, monkeypatch):
    good = [make_wheel(tmp_path, "datasets", "5.0", ["numpy>=2", "missing; extra == 'x'", "old; python_version<'3'"])]
    good.append(make_wheel(tmp_path, "diffusers", "0.42.1"))
    assert wheels.complaints(good) == []
    bad = [*good, make_wheel(tmp_path, "diffusers", "0.39", ["torch>=99", "lost-package>=1"])]
    found = wheels.complaints(bad)
    assert len(found) == 4
    assert found[0] == "diffusers is there twice"
    assert found[1] == "setup.py needs diffusers>=0.40, not 0.39"
    assert "torch>=99, not 2.11" in found[2]
    assert "lost-package>=1, which is in no wheel" in found[3]
    monkeypatch.setattr(wheels, "MOST_MIB", 0)
    assert "more than 0" in wheels.complaints(good)[0]


def test_bitsandbytes_keeps_the_library_of_the_image_alone(tmp_path):
    libraries = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda128", "cuda130", "rocm72")]
    wheel = make_wheel(tmp_path, "bitsandbytes", "0.50.2", files=["bitsandbytes/__init__.py", *libraries])
    wheels.slim(wheel)
    (slimmed,) = tmp_path.glob("*.whl")
    assert slimmed.name == "bitsandbytes-0.50.2-1cuda130-py3-none-any.whl"
    with ZipFile(slimmed) as opened:
        kept = [name for name in opened.namelist() if ".dist-info" not in name]
        assert kept == ["bitsandbytes/__init__.py", libraries[0], libraries[2]]
        record = opened.read("bitsandbytes-0.50.2.dist-info/RECORD").decode()
    assert [line.split(",")[0] for line in record.splitlines()] == kept
    assert json.dumps(wheels.complaints([slimmed])).count("bitsandbytes") == 0
