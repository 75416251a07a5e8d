# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""evaluate_disback.py with pixel-space models: class labels, or nothing, instead of prompts."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from script_runs import SCRIPTS, start
from tiny_edm import save_teacher

from disback_diffusers.artifact.layout import write_config
from disback_diffusers.artifact.save import save_network
from disback_diffusers.evaluation.evaluate import _spread
from disback_diffusers.evaluation.protocols import PROTOCOLS
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import open_teacher


SCRIPT = SCRIPTS / "evaluate_disback.py"
MEASURED = "--reference real --feature_extractor embedded --batch_size 4".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with pixels, a teacher of four classes; student, of two of them; plain, unconditional; real, eight
    images; and what cannot be evaluated. Read only."""
    folder = tmp_path_factory.mktemp("models")
    teacher = save_teacher(folder / "pixels", classes=4)
    save_network(folder / "student", open_teacher(teacher).load_network())
    config = {"base_model": "pixels", "pipeline": "ConsistencyModelPipeline", "student": "full", "sigmas": [80.0]}
    write_config(folder / "student", {**config, "class_labels": "1,3"})
    save_teacher(folder / "plain", "ddpm")
    save_teacher(folder / "cm", "cm")
    save_teacher(folder / "ddpm", "ddpm", classes=4)
    save_teacher(folder / "broken", classes=4)
    (folder / "broken" / "classes.json").write_text('{"classes": 5.0}')
    (folder / "real").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "real" / f"{i}.png")
    return folder


@pytest.fixture
def folder(files, models):
    """A copy of `models` as the current folder."""
    shutil.copytree(models, files, dirs_exist_ok=True)
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
    seed = 6 * distances.index(min(distances))
    assert found["first seed"] == seed
    assert f"the set with the lowest Fréchet distance of 3; seed {seed}," in printed


def test_labels_in_a_file_and_a_teacher_by_heuns_method(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "labels.txt").write_text("0\n2\n2\n" * 4)
    words = ["pixels", "--prompts", "labels.txt", "--num_inference_steps", "3", "--repeats", "2"]
    found, printed = finish(*words)
    assert found["images"] == 12 and "top-10 retrieval" not in found  # labels are no prompts
    family = open_teacher("pixels")
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = Denoiser(family, family.load_network(), family.schedule), z, Conditions({"labels": torch.tensor([2])})
    image = np.asarray(Image.open("evaluation/images/000001.png"), dtype=float) / 255
    expected = family.decode(family.sample(*given, None, 3))[0].permute(1, 2, 0).numpy()
    assert np.abs(image - expected).max() < 0.01


@pytest.mark.parametrize("scale", [3.0, 0.0])
def test_a_guided_teacher(folder, monkeypatch, scale):
    monkeypatch.chdir(folder)
    save_teacher(folder / "guided", classes=4, empty=4)
    finish("guided", "--num_images", "6", "--num_inference_steps", "2", "--guidance_scale", str(scale))
    family = open_teacher("guided")
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = Denoiser(family, family.load_network(), family.schedule), z
    label, empty = (Conditions({"labels": torch.tensor([number])}) for number in (1, 4))
    image = np.asarray(Image.open("evaluation/images/000001.png"), dtype=float) / 255
    guided, unguided = (family.decode(family.sample(*given, label, empty, 2, s)) for s in (scale, 1.0))
    assert np.abs(image - guided[0].permute(1, 2, 0).numpy()).max() < 0.01
    assert (guided - unguided).abs().max() > 0.05


def test_a_consistency_models_scheduler_leaves_it_open(folder, monkeypatch):
    """The same file can be a consistency model, or the teacher of one."""
    monkeypatch.chdir(folder)
    words = ["cm", "--num_images", "6", "--output_dir"]
    heun, _ = finish(*words, "evaluation", "--sampler", "heun", "--num_inference_steps", "2")
    shutil.rmtree("evaluation")
    pipeline, _ = finish(*words, "evaluation", "--sampler", "pipeline")
    assert heun["FD"] != pipeline["FD"]


def test_images_of_another_configuration_are_not_mixed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    finish("student", "--num_images", "6")
    config = json.loads((folder / "student" / CONFIG_NAME).read_text())
    (folder / "student" / CONFIG_NAME).write_text(json.dumps({**config, "sigmas": [20]}))
    run = start(["student", "--num_images", "6", *MEASURED], script=SCRIPT)
    assert run.wait() == 2 and "sigmas was [80.0], now it is [20]" in run.messages[0]


def test_a_student_without_a_configuration(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "student" / CONFIG_NAME).unlink()
    assert finish("student", "--base_model", "pixels", "--num_images", "6")[0]["images"] == 6


def test_an_unconditional_pipeline(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert finish("plain", "--num_images", "5", "--num_inference_steps", "3")[0]["images"] == 5


@pytest.mark.parametrize(
    "words, expected",
    [
        ("student", "--num_images is required"),
        (
            "student --prompts labels.txt",
            "--prompts: '2' is not one of the classes of student, 1,3: give one",
        ),
        ("plain --prompts labels.txt", "--prompts: plain is unconditional: leave it out"),
        ("student --num_images 4 --resolution 64", "--resolution is for text-to-image models"),
        (
            "pixels --num_images 4 --num_inference_steps 2 --guidance_scale 2",
            "--guidance_scale: pixels has no empty class, which guidance needs",
        ),
        (
            "plain --num_images 4 --guidance_scale 2",
            "--guidance_scale is for text-to-image models and",
        ),
        (
            "student --num_images 4 --guidance_scale 1",
            "--guidance_scale is for text-to-image models and",
        ),
        ("student --num_images 4 --clip_model clip", "--clip_model is for text-to-image models"),
        ("student --num_images 1 --reference large", "the Fréchet distance needs at least 2 images: give a larger"),
        ("student --num_images 4 --protocol edm-50k --reference large", "--protocol edm-50k resizes nothing, but"),
        ("student --num_images 4 --num_inference_steps 2", "this student was trained for 1"),
        ("student --num_images 4 --sampler heun", "--sampler is for a teacher: a student has one step"),
        ("pixels --num_images 4", "--num_inference_steps is required, at least 2: the steps of Heun's method"),
        ("cm --num_images 4", "--sampler is required: heun for an EDM teacher, pipeline for a consistency model"),
        ("plain --num_images 4 --sampler heun", "--sampler heun is for EDM teachers: plain is a DDPMPipeline"),
        ("ddpm --num_images 4", "ddpm has classes, and diffusers' DDPMPipeline takes none"),
        ("broken --num_images 4 --num_inference_steps 2", "broken has a classes.json that does not fit its network"),
        ("student --num_images 4 --protocol edm-50k --reference small", "--protocol edm-50k resizes nothing, but"),
        ("student --num_images 8 --protocol edm-50k --reference mixed", "an image of reference is 16x16, not 8x8"),
        ("real --repeats 3", "does not fit the 8 images of real"),
    ],
)
def test_what_does_not_fit(folder, words, expected):
    (folder / "labels.txt").write_text("1\n2\n")
    shutil.copytree(folder / "real", folder / "mixed")
    Image.new("RGB", (16, 16)).save(folder / "mixed" / "9.png")
    for name, size in (("large", 16), ("small", 4)):
        (folder / name).mkdir()
        for i in range(2):
            Image.new("RGB", (size, size)).save(folder / name / f"{i}.png")
    words = words.split()
    given = words if "--reference" in words else [*words, "--reference", "real"]
    run = start([*given, "--feature_extractor", "embedded"], script=SCRIPT)
    assert run.wait() == 2, run.output
    assert expected in run.messages[0] and len(run.messages) == 1, run.output


def test_the_protocol_is_that_of_edm():
    line = str(PROTOCOLS["edm-50k"])
    assert line.startswith("50,000 images with all real ones not resized, inception, the lowest of 3; EDM")


@pytest.mark.parametrize(
    "captions, images, expected",
    [
        ([f"class {i % 1000}" for i in range(50_000)], 50_000, [100 * i for i in range(10)]),
        (["class 0", "class 1", "class 2"] * 20, 60, list(range(10))),
        (["class 0"] * 20 + ["class 1"] * 20, 40, [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]),
        ([""] * 4, 12, list(range(10))),  # an unconditional model
        ((), 50, [5 * i for i in range(10)]),  # a folder of images
        (["a", "b", "c"], 3, [0, 1, 2]),
    ],
)
def test_the_sheet_shows_different_classes(captions, images, expected):
    assert _spread(captions, images) == expected
