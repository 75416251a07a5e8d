# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the pipelines share."""

import pytest
import torch
from diffusers.utils import logging
from tiny_models import save_sd, save_sdxl
from tiny_students import noise, save_students


SAVE = {"sd": save_sd, "sdxl": save_sdxl}
PROMPT = "a photo of the red cat"


class Family:
    """A tiny teacher, its students' folders by kind ("lora", "unet", "full"), and the `Roles` they were made from."""

    def __init__(self, name, folder):
        self.base = SAVE[name](folder / "teacher")
        self.folders, self.roles = save_students(self.base, folder)


@pytest.fixture(scope="session")
def sd(tmp_path_factory):
    """Stable Diffusion; read only."""
    return Family("sd", tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session", params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def family(request, tmp_path_factory):
    """Stable Diffusion and SDXL; read only."""
    is_sd = request.param == "sd"
    return request.getfixturevalue("sd") if is_sd else Family("sdxl", tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def warned(caplog):
    """A function that returns the warnings of diffusers so far."""
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    logging.disable_propagation()


@pytest.fixture(scope="session")
def generate():
    """A function that generates an image from fixed noise, as a tensor (1, 3, 32, 32)."""

    def generate(pipe, prompt=PROMPT, n=1, **kwargs):
        pipe.set_progress_bar_config(disable=True)
        return pipe(prompt, **{"latents": noise(n), "output_type": "pt", **kwargs}).images

    return generate


@pytest.fixture
def difference():
    """The largest difference of two tensors (`float`)."""
    return lambda a, b: torch.sub(a, b).abs().max().item()
