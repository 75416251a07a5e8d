# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The card of a student of a pixel-space teacher: its snippets run, and nothing in it is about prompts."""

import re

import pytest
import yaml
from PIL import Image
from tiny_edm import save_teacher

from disback_diffusers import DisBackPipeline
from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.layout import read_config, write_config
from disback_diffusers.artifact.save import save_network
from disback_diffusers.models.families import open_teacher


def student(folder, kind, whole, classes=None):
    """The folder of a full student, and the card that is in it."""
    teacher = save_teacher(folder / "teacher", kind, classes=classes)
    save_network(folder / "run", open_teacher(teacher).load_network())
    start = {"timesteps": [399], "pipeline": "DDPMPipeline"} if kind == "ddpm" else {"sigmas": [80.0]}
    names = {"class_labels": "1-2", "class_names": ["bird", "cat", "dog"]} if classes else {}
    write_config(folder / "run", {"base_model": teacher, "pipeline": "ConsistencyModelPipeline", "student": "full",
                                  "method": {"no_backtracking": True}, **start, **names})  # fmt: skip
    if not whole:
        return folder / "run", model_card(folder / "run", read_config(folder / "run"), str(folder / "run"))
    DisBackPipeline.from_pretrained(folder / "run").save_pretrained(folder / "whole")
    where = folder / "whole"
    return where, model_card(where, read_config(where), str(where), whole=True)


@pytest.mark.parametrize(
    "kind, whole, classes, snippets",
    [
        ("edm", False, None, 1),
        ("edm", True, 3, 2),
        ("ours", True, None, 2),
        ("ddpm", True, None, 2),
        ("ddpm", True, 3, 1),
    ],
)
def test_the_snippets_run(tmp_path, kind, whole, classes, snippets):
    folder, card = student(tmp_path, kind, whole, classes)
    text = card.read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(code) == snippets
    for block in code:
        block = block.replace('.to("cuda")', "")
        if 'base_model="path' in block:  # a base that is not on the Hub
            block = block.replace("path/or/id/of/the/base", str(tmp_path / "teacher"))
        found = {}
        exec(block, found)
        assert len(found["images"]) == 4
    front = yaml.safe_load(text.split("---\n")[1])
    assert front.get("pipeline_tag") == (None if classes else "unconditional-image-generation")
    assert ("- 1: cat\n- 2: dog\n" in text) == bool(classes) and "bird" not in text
    assert "prompt" not in text.lower() and "\n\n\n" not in text and "{{" not in text
    assert ("disback-diffusers has the class of its network" in text) == (kind == "ours")
    assert ("takes no class labels" in text) == (kind == "ddpm" and bool(classes))


def test_captions_of_the_samples(tmp_path):
    def captions(prompts, **config):
        images = [Image.new("RGB", (8, 8))] * len(prompts)
        config = {"sigmas": [80.0], "pipeline": "ConsistencyModelPipeline", **config}
        front = yaml.safe_load(model_card(tmp_path, config, None, prompts, images).read_text().split("---\n")[1])
        return [sample["text"] for sample in front["widget"]]

    assert captions(["", ""]) == ["-", "-"]
    assert captions(["3"], class_labels="0-9") == ["class 3"]
    assert captions(["1"], class_labels="0-1", class_names=["cat", "food & drink"]) == ["class 1: food & drink"]
