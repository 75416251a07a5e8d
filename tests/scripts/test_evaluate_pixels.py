# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""evaluate_disback.py with pixel-space models: class labels, or nothing, instead of prompts."""

import json

import numpy as np
import pytest
from PIL import Image
from script_runs import SCRIPTS, start
from tiny_edm import save_teacher

from disback_diffusers.artifact.layout import write_config
from disback_diffusers.artifact.save import save_network
from disback_diffusers.models.families import open_teacher


SCRIPT = SCRIPTS / "evaluate_disback.py"
MEASURED = "--reference real --feature_extractor embedded --batch_size 4".split()


@pytest.fixture
def folder(files):
    """./teacher of four classes, a full ./student of two of them, ./plain, unconditional, ./real of eight images."""
    teacher = save_teacher(files / "teacher", classes=4)
    save_network(files / "student", open_teacher(teacher).load_network())
    write_config(files / "student", {"base_model": teacher, "pipeline": "ConsistencyModelPipeline", "student": "full",
                                     "sigmas": [80.0], "class_labels": "1,3"})  # fmt: skip
    save_teacher(files / "plain", "ddpm")
    (files / "real").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(files / "real" / f"{i}.png")
    return files


def finish(*words):
    run = start([*words, *MEASURED], script=SCRIPT)
    assert run.wait() == 0, run.output
    return json.loads(open("evaluation/results.json").read())["results"], run.output


def test_a_student_of_classes_and_the_lowest_of_three(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found, printed = finish("student", "--num_images", "6", "--repeats", "3")
    assert found["images"] == 6 and len(list((folder / "evaluation/images").iterdir())) == 18
    distances = found["FD of the repeats"]
    assert len(set(distances)) == 3 and found["FD"] == pytest.approx(min(distances), abs=1e-3)
    assert f"FD {found['FD']:.4g}" in printed


def test_labels_in_a_file_and_a_plain_pipeline(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "labels.txt").write_text("0\n2\n2\n")
    assert finish("teacher", "--prompts", "labels.txt", "--num_inference_steps", "2")[0]["images"] == 3


def test_an_unconditional_pipeline(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert finish("plain", "--num_images", "5", "--num_inference_steps", "3")[0]["images"] == 5


@pytest.mark.parametrize(
    "words, expected",
    [
        ("student", "--num_images is required"),
        ("student --prompts labels.txt", "--prompts: '2' is no class of student; give one label per line"),
        ("plain --prompts labels.txt", "--prompts: plain is unconditional: leave it out"),
        ("student --num_images 4 --resolution 64", "--resolution is for text-to-image models"),
        ("student --num_images 4 --clip_model clip", "--clip_model is for text-to-image models"),
        ("student --num_images 4 --protocol edm-50k --reference large", "--protocol edm-50k resizes nothing, but"),
        ("student --num_images 4 --num_inference_steps 2", "this student was trained for 1"),
        ("real --repeats 3", "does not fit the 8 images of real"),
    ],
)
def test_what_does_not_fit(folder, words, expected):
    (folder / "labels.txt").write_text("1\n2\n")
    (folder / "large").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "large" / "0.png")
    words = words.split()
    given = words if "--reference" in words else [*words, "--reference", "real"]
    run = start([*given, "--feature_extractor", "embedded"], script=SCRIPT)
    assert run.wait() == 2, run.output
    assert expected in run.messages[0] and len(run.messages) == 1, run.output
