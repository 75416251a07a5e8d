# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What every test stands on: no network, one thread, and saved tiny teachers to train from."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported; subprocesses inherit it
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tiny models are slower with more

import pytest


# torch and diffusers are imported in the fixtures: the process that hands the tests to the workers needs neither.


def pytest_collection_modifyitems(items):
    """Mark the tests of modules that can start processes, which `make test-fast` leaves out. Long files come first:
    at the end, no worker shall wait for another one.
    """
    for item in items:
        names = vars(item.module)
        from_script_runs = any(getattr(value, "__module__", None) == "script_runs" for value in names.values())
        if from_script_runs or {"subprocess", "multiprocessing"} & names.keys():
            item.add_marker("process")
    long = {item.path for item in items if item.get_closest_marker("process") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    """A saved tiny Stable Diffusion pipeline; read only."""
    from tiny_models import save_sd

    return save_sd(tmp_path_factory.mktemp("teachers") / "sd")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    """A saved tiny SDXL pipeline; read only."""
    from tiny_models import save_sdxl

    return save_sdxl(tmp_path_factory.mktemp("teachers") / "sdxl")


@pytest.fixture(scope="session")
def small_unet(tmp_path_factory):
    """A saved UNet of half the width that fits the tiny Stable Diffusion; read only."""
    from tiny_models import build_small_unet

    folder = tmp_path_factory.mktemp("unets") / "small"
    build_small_unet().save_pretrained(folder)
    return folder
