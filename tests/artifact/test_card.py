# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The model card: metadata, snippets that run, and nothing that was not measured."""

import re

import pytest
import yaml
from PIL import Image
from tiny_students import TIMESTEP

from disback_diffusers.artifact.card import model_card


PROMPT = 'a photo of a "red" cat'
CONFIG = {"base_model": "owner/base", "student": "lora", "lora_rank": 4, "lora_alpha": 8, "timesteps": [TIMESTEP]}


def front_matter(card):
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_card_of_a_lora(tmp_path):
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config = {
        **CONFIG,
        "base_model": base,
        "base_revision": "abc",
        "method": {"steps_per_node": 100, "weird": "a|b\nc"},
    }
    images = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]
    rows = [{"model": "teacher", "FID": 10.5}, {"model": "student, 1 step", "FID": 12.25, "CLIP": 0.31}]
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "path.png").touch()
    card = model_card(tmp_path, config, "alice/student", [PROMPT, "🦊"], images, [0, 3, 6, 12], rows)
    assert front_matter(card) == {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "license": "creativeml-openrail-m",
        "pipeline_tag": "text-to-image",
        "tags": [
            *("text-to-image", "diffusers", "stable-diffusion", "stable-diffusion-diffusers"),
            *("lora", "template:sd-lora", "disback", "distillation", "one-step"),
        ],
        "widget": [
            {"text": PROMPT, "output": {"url": "samples/card-0.png"}},
            {"text": "🦊", "output": {"url": "samples/card-1.png"}},
        ],
    }
    assert Image.open(tmp_path / "samples" / "card-1.png").size == (8, 8)
    text = card.read_text(encoding="utf-8")
    for part in (
        "# student\n",
        "\n<Gallery />\n",
        "rank 4 and alpha 8",
        "after 3, 6, 12 updates",
        "](samples/degradation-path.png)",
        "| model | FID | CLIP |\n| --- | --- | --- |\n| teacher | 10.5 |  |\n| student, 1 step | 12.25 | 0.31 |\n",
        "| Setting | Value |\n| --- | --- |\n| steps_per_node | 100 |\n| weird | a\\|b c |\n",
        'revision="abc"',
        f"timesteps=[{TIMESTEP}]",
    ):
        assert part in text
    assert "\n\n\n" not in text and "{{" not in text and "{%" not in text and text.endswith("\n")


def test_card_says_nothing_that_was_not_measured(tmp_path):
    text = model_card(tmp_path, {**CONFIG, "student": "full"}).read_text()
    assert "base_model_relation: finetune" in text and "subfolder=" in text
    for part in ("Results", "FID", "Gallery", "widget", "degradation/", "Setting", "license", "lora"):
        assert part not in text
    assert "Without backtracking" not in text  # nor that it was trained without
    text = model_card(tmp_path, {**CONFIG, "method": {"no_backtracking": True}}).read_text()
    assert "Without backtracking" in text


def test_the_card_of_a_whole_pipeline_says_how_it_was_trained(tmp_path):
    method = {"no_backtracking": False, "node_steps": [0, 3, 6], "path_walked": True, "lora_rank": 4}
    text = model_card(tmp_path, {**CONFIG, "student": "full", "method": method}, whole=True).read_text()
    assert "after 3, 6 updates" in text and "in reverse order" in text and "Without backtracking" not in text
    assert "| lora_rank (target, fake score) | 4 |" in text  # not of the student
    lora = {**method, "student": "lora", "path_walked": False}
    text = model_card(tmp_path, {**CONFIG, "student": "full", "method": lora}, whole=True).read_text()
    assert "| lora_rank | 4 |" in text and "because\nits network could denoise already, or its samples" in text


def test_the_card_says_where_the_fake_score_started(tmp_path):
    def text(**method):
        method = {"node_steps": [0, 6], "path_walked": False, "node_switching": "adaptive", **method}
        return model_card(tmp_path, {**CONFIG, "method": method}).read_text()

    assert "the fake score started at the last node" in text(fake_score_init="node")
    assert "the fake score started" not in text(fake_score_init="teacher")
    fitted = {"no_backtracking": True, "fake_score_init": "fit", "node_steps": []}
    assert "(Diff-Instruct). The fake score was fitted to images of the untrained student first." in text(**fitted)
    assert "from the start (objective `gan`). The fake" in text(**fitted, objective="gan")


def test_the_card_of_a_family_without_a_pipeline_promises_none(tmp_path):
    card = model_card(tmp_path, {**CONFIG, "pipeline": "PointsPipeline"}, "me/points")
    assert "text-to-image" not in card.read_text() and "DisBackPipeline" not in card.read_text()
    assert "Limits and licence" in card.read_text() and "pipeline_tag" not in front_matter(card)


def test_the_card_of_a_path_with_one_node_speaks_of_no_other(tmp_path):
    method = {"node_steps": [0, 6], "path_walked": False, "node_switching": "fixed"}
    text = model_card(tmp_path, {**CONFIG, "method": method}).read_text()
    assert "Its state after 6 updates is the one node of the path" in text
    assert "because\nthe path has one node only. Only the fake score" in text and "adaptive" not in text


@pytest.mark.parametrize("student", ["lora", "full"])
def test_card_of_an_sdxl_student(tmp_path, student):
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    config = {**CONFIG, "base_model": base, "pipeline": "StableDiffusionXLPipeline", "student": student}
    card = model_card(tmp_path, config, "alice/student")
    front = front_matter(card)
    assert front["license"] == "openrail++" and "stable-diffusion-xl" in front["tags"]
    assert "stable-diffusion" not in front["tags"]
    for code in re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL):
        compile(code, "card", "exec")
        assert "StableDiffusionPipeline" not in code
    assert "StableDiffusionXLPipeline" in card.read_text()


@pytest.mark.parametrize("base", ["local", "embedded"])
def test_card_without_a_base_on_the_hub(tmp_path, base):
    config = {
        **CONFIG,
        "base_model": str(tmp_path) if base == "local" else base,
        "method": {"data": f"{tmp_path}/x.txt"},
    }
    card = model_card(tmp_path, config)
    assert "base_model" not in front_matter(card) and "base_model_relation" not in front_matter(card)
    assert str(tmp_path) not in card.read_text()
    assert ("base_model=" in card.read_text()) == (base == "local")


@pytest.mark.parametrize(
    "labels, call, trained, left_out",
    [
        (None, "pipe(batch_size=4).images", "needs no guidance", {"caption_column", "proportion_empty_prompts"}),
        ("3,5-9", "class_labels=[3, 5, 6, 7])", "trained for the classes 3,5-9.", {"caption_column"}),
        ("7", "class_labels=[7, 7, 7, 7])", "trained for the class 7.", {"caption_column"}),
    ],
)
def test_what_the_card_says_of_classes(tmp_path, labels, call, trained, left_out):
    method = {"caption_column": "text", "proportion_empty_prompts": 0.1, "seed": 0}
    config = {"pipeline": "ConsistencyModelPipeline", "student": "full", "sigmas": [80.0], "method": method}
    text = model_card(tmp_path, {**config, **({"class_labels": labels} if labels else {})}).read_text()
    assert call in text and trained in text
    assert {name for name in method if f"| {name} |" not in text} == left_out
