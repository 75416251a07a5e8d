# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students of a teacher with a LoRA of its own, such as a style."""

import json
import shutil

import pytest
from diffusers import DiffusionPipeline, LCMScheduler
from tiny_students import ALPHA, RANK, TIMESTEP, add_text_encoders, lora_student, save_kohya, save_peft

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.card import model_card
from disback_diffusers.artifact.layout import published_files, write_config
from disback_diffusers.artifact.teacher_lora import fuse_teacher_lora, save_teacher_lora
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.models.lora_file import LoraFile


STRENGTH = 0.5


def save_with_text(folder, roles):
    return add_text_encoders(save_kohya(folder, roles), folder.parent / "base")


@pytest.fixture(scope="module", params=[save_peft, save_kohya, save_with_text], ids=["peft", "kohya", "text"])
def student(request, sd, tmp_path_factory):
    """A LoRA student's folder, with the style that its teacher had."""
    folder = tmp_path_factory.mktemp("styled")
    roles = lora_student(sd.base)
    roles.randomize("student", seed=7)
    (folder / "base").symlink_to(sd.base)
    style = LoraFile(str(request.param(folder / "style", roles)), roles.network.config, may_adapt_text=True)
    shutil.copytree(sd.folders["lora"], folder / "student")
    save_teacher_lora(folder / "student", style)
    config = {"base_model": str(sd.base), "student": "lora", "lora_rank": RANK, "lora_alpha": ALPHA,
              "timesteps": [TIMESTEP], "teacher_lora": {"source": "me/my-style", "strength": STRENGTH}}  # fmt: skip
    write_config(folder / "student", config)
    return folder / "student"


def in_plain_diffusers(sd, student):
    pipe = DiffusionPipeline.from_pretrained(sd.base)
    pipe.load_lora_weights(student, weight_name="teacher_lora.safetensors")
    pipe.fuse_lora(lora_scale=STRENGTH)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(student, weight_name="pytorch_lora_weights.safetensors")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def test_the_base_has_the_teachers_lora(sd, student, generate, difference):
    ours, plain = DisBackPipeline.from_pretrained(student), in_plain_diffusers(sd, student)
    expected = generate(plain, num_inference_steps=1, timesteps=[TIMESTEP], guidance_scale=0)
    assert difference(generate(ours), expected) < 1e-4
    assert difference(generate(DisBackPipeline.from_pretrained(sd.folders["lora"])), expected) > 1e-2


@pytest.mark.slow
def test_once_saved_it_is_in_the_weights(student, tmp_path, generate, difference):
    ours = DisBackPipeline.from_pretrained(student)
    ours.save_pretrained(tmp_path)
    assert difference(generate(DisBackPipeline.from_pretrained(tmp_path)), generate(ours)) < 1e-4
    assert not (tmp_path / "teacher_lora.safetensors").exists()
    card = (tmp_path / "README.md").read_text()
    assert "with the LoRA `me/my-style` at strength 0.5.\n" in card and "fuse_lora" not in card


def test_it_is_published_and_on_the_card(student, tmp_path):
    assert "teacher_lora.safetensors" in published_files(student)
    config = json.loads((student / CONFIG_NAME).read_text())
    card = model_card(tmp_path, config, "me/student").read_text()
    assert "with the LoRA `me/my-style` at strength 0.5, which is in `teacher_lora.safetensors`." in card
    lines = ['pipe.load_lora_weights("me/student", weight_name="teacher_lora.safetensors")',
             "pipe.fuse_lora(lora_scale=0.5)", "pipe.unload_lora_weights()",
             'pipe.load_lora_weights("me/student", weight_name="pytorch_lora_weights.safetensors")']  # fmt: skip
    assert "\n".join(lines) in card
    config["teacher_lora"]["source"] = "/home/somebody/my-style.safetensors"
    assert "/home" not in model_card(tmp_path, config).read_text()


def test_files_that_do_not_fit(sd, student, tmp_path):
    for name, change, expected in (
        ("missing", lambda file: file.unlink(), "lacks teacher_lora.safetensors, the LoRA of its teacher"),
        ("damaged", lambda file: file.write_bytes(b"x" * 99), "teacher_lora.safetensors is no readable safetensors"),
    ):
        folder = shutil.copytree(student, tmp_path / name)
        change(folder / "teacher_lora.safetensors")
        with pytest.raises(UsageError, match=expected):
            DisBackPipeline.from_pretrained(folder)
    config = json.loads((student / CONFIG_NAME).read_text())
    for lora in ("style", {"source": "x"}, {"strength": "1"}, {"strength": float("nan")}):
        (folder / CONFIG_NAME).write_text(json.dumps({**config, "teacher_lora": lora}))
        with pytest.raises(UsageError, match="has teacher_lora .*; it must have a strength, a number"):
            DisBackPipeline.from_pretrained(folder)


def test_an_offloaded_base_is_refused(sd, student):
    pipe = DiffusionPipeline.from_pretrained(sd.base)
    pipe.unet.to("meta")
    with pytest.raises(UsageError, match="cannot be added to a quantised or offloaded UNet"):
        fuse_teacher_lora(pipe, str(student), student, STRENGTH)
