# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The architectures that can be distilled, one file each.

A family is found by the class in a pipeline's model_index.json. To add one, derive from `base.Family` in a file of its
own and put the class into `FAMILIES`.
"""

from collections.abc import Iterable

from ..source import ModelSource
from .base import Family
from .edm import DDIM, DDPM, EDM
from .sd import StableDiffusion
from .sdxl import StableDiffusionXL


FAMILIES: list[type[Family]] = [StableDiffusion, StableDiffusionXL, EDM, DDPM, DDIM]


def open_teacher(
    name: str,
    revision: str | None = None,
    variant: str | None = None,
    among: Iterable[type[Family]] | None = None,
) -> Family:
    """Read and check the configs of a teacher (a few kB); no weights are loaded.

    Args:
        name (`str`): folder, Hub id, or "embedded".
        revision (`str`, *optional*), variant (`str`, *optional*): as in `from_pretrained`; parts without files of the
            variant are loaded from their plain ones.
        among (`list[type[Family]]`, *optional*): the families allowed; by default all.

    Raises:
        UsageError: no such pipeline, one of no known or of another family, or one that cannot be distilled.
        RunError: the Hub cannot be reached and the cache does not hold it.
    """
    source = ModelSource(name, revision, variant)
    kind, among = source.index.get("_class_name", "model of no known class"), list(among or FAMILIES)
    for family in among:
        if family.pipeline_name == kind:
            return family(source)
    *names, last = (family.pipeline_name for family in among)
    expected = f"{', '.join(names)} or {last}" if names else last
    remedy = ", or another script" if len(among) < len(FAMILIES) else ""
    raise source.error(f"is a {kind}: take a {expected}{remedy}.")
