# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The scripts that train tiny models on the emoji to try distillation on: what they save can be used."""

import shutil
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from diffusers import DiffusionPipeline, LCMScheduler
from PIL import Image
from script_runs import EXAMPLES, start
from tiny_edm import save_teacher

from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.models.families import open_teacher


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function that runs such a script on 64 emoji and returns its output folder."""
    monkeypatch.chdir(tmp_path)
    data = load_dataset("parquet", data_files=str(EXAMPLES / "data" / "noto_emoji_32.parquet"), split="train")
    data.select(range(64)).to_parquet("emoji.parquet")

    def train(script, *words):
        run = start(["--train_data", "emoji.parquet", "--output_dir", "out", *words], script=EXAMPLES / script)
        assert run.wait() == 0, run.output
        return tmp_path / "out"

    return train


def images(pipe, **kwargs):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(["cat face", "rocket"], num_inference_steps=2, generator=generator, output_type="pt", **kwargs).images


def test_the_tiny_teacher_and_its_judge(train):
    folder = train(
        "train_tiny_teacher.py", *"--vae_steps 2 --unet_steps 2 --judge_steps 2 --mixed_precision no".split()
    )
    assert open_teacher(str(folder / "teacher")).default_resolution == "32x32"
    assert images(DiffusionPipeline.from_pretrained(folder / "teacher")).shape == (2, 3, 32, 32)
    assert Judge(folder / "judge").text_features(["cat face"]).isfinite().all()


def test_the_tiny_sdxl_teacher(train):
    folder = train("train_tiny_sdxl_teacher.py", "--steps", "2", "--mixed_precision", "no")
    teacher = open_teacher(str(folder))
    assert [bucket.shape for bucket in teacher.buckets(["32", "48x32"])] == [(4, 8, 8), (4, 8, 12)]
    assert images(DiffusionPipeline.from_pretrained(folder), height=32, width=48).shape == (2, 3, 32, 48)


def test_the_tiny_lcm_lora(train):
    folder = train("train_tiny_lcm_lora.py", *"--steps 2 --batch_size 2 --lora_rank 2".split())
    pipe = DiffusionPipeline.from_pretrained(resolve(EMBEDDED))
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    before = images(pipe, guidance_scale=0)
    pipe.load_lora_weights(folder)
    assert not torch.allclose(images(pipe, guidance_scale=0), before, atol=1e-3)


def test_the_tiny_edm_teacher_by_group_and_smaller_and_continued(train, tmp_path):
    words = "--conditional --image_size 16 --batch_size 4 --steps".split()
    folder = train("train_tiny_edm_teacher.py", *words, "2")
    teacher = open_teacher(str(folder))
    assert (teacher.classes, teacher.empty_class, teacher.class_names[3]) == (9, 9, "Food & Drink")
    assert [bucket.shape for bucket in teacher.buckets([])] == [(3, 16, 16)]
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(2, [3, 9], 2, output_type="pt").images.shape == (2, 3, 16, 16)

    before = teacher.load_network().state_dict()
    folder.rename(tmp_path / "first")
    more = ["1", "--init_from", "first", "--unconditional_dir", "unconditional"]
    again = open_teacher(str(train("train_tiny_edm_teacher.py", *words, *more)))
    after = again.load_network().state_dict()
    assert all((after[name] - before[name]).abs().max() < 0.02 for name in before)
    assert_is_the_empty_class(open_teacher("unconditional"), again)

    shutil.rmtree("out")
    anew = open_teacher(str(train("train_tiny_edm_teacher.py", *words, "1", "--init_from", "unconditional")))
    assert anew.load_network().class_embedding.weight.abs().max() < 0.02  # labels start without effect

    words.remove("--conditional")
    shutil.rmtree("out")
    alone = open_teacher(str(train("train_tiny_edm_teacher.py", *words, "1", "--init_from", "first")))
    bias = "time_embedding.linear_2.bias"  # the empty class goes in there
    expected = before[bias] + before["class_embedding.weight"][9]
    torch.testing.assert_close(alone.load_network().state_dict()[bias], expected, atol=0.02, rtol=0)


def test_a_tiny_edm_teacher_that_cannot_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"image": [Image.new("RGB", (8, 4))] * 2, "label": [0, 1]}
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a", "b"]))
    Dataset.from_dict(columns, features).to_parquet("wide.parquet")
    Dataset.from_dict(columns).to_parquet("numbers.parquet")
    for words, expected in (
        (["--init_from", "nowhere"], "--init_from nowhere is not a folder"),
        (
            ["--conditional", "--init_from", save_teacher("other", classes=4)],
            "other has another network or other classes",
        ),
        (["--unconditional_dir", "out"], "--unconditional_dir needs --conditional"),
        (["--steps", "0"], "--steps: 0 is not above 0"),
        (["--train_data", "nowhere.parquet"], "--train_data nowhere.parquet: no such file"),
        (["--train_data", "wide.parquet"], "--train_data wide.parquet must have square images of one size"),
        (["--train_data", "numbers.parquet"], "--train_data numbers.parquet must have the columns image and label"),
        (["--train_data", __file__], "is no readable parquet file"),
        (["--image_size", "64"], "--image_size 64 is more than the 32 of --train_data"),
        (["--learning_rate", "nan"], "--learning_rate: nan is not between 0 and 1"),
        (["--output_dir", "wide.parquet"], "wide.parquet is a file: choose a folder"),
        (["--step", "3"], "unrecognized arguments: --step 3"),
        (["--image_size", "30"], "30x30 images cannot be halved twice"),
        (["--output_dir", "other"], "other holds a teacher: choose another folder"),
    ):
        run = start(["--output_dir", "out", *words], script=EXAMPLES / "train_tiny_edm_teacher.py")
        assert run.wait() == 2 and expected in run.output and not Path("out").exists()


def assert_is_the_empty_class(unconditional, teacher):
    assert unconditional.classes == 0
    x_t, t = torch.randn(2, *teacher.buckets([])[0].shape), torch.tensor([0.3, 0.5])
    with torch.no_grad():
        expected = teacher.load_network()(x_t, t, class_labels=torch.full((2,), teacher.empty_class)).sample
        found = unconditional.load_network()(x_t, t).sample
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # both are saved in half precision


def test_the_edm_teachers_in_the_examples():
    """The teachers that are in the repository are what the script writes."""
    teachers = []
    for name, classes in (("unconditional", 0), ("groups", 9)):
        folder = EXAMPLES / "tiny_edm" / name
        teacher = open_teacher(str(folder))
        assert teacher.classes == classes and teacher.buckets([])[0].shape == (3, 32, 32)
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 3_000_000
        teachers.append(teacher)
    assert_is_the_empty_class(*teachers)
