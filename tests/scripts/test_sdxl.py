# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""train_disback_sdxl.py: what it has of its own; the trainer is that of train_disback_sd.py."""

import json
import signal

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from script_runs import SDXL_SCRIPT, TWO_PROCESSES, Trap, differences, launch, quick_words, result, start, start_pair
from tiny_models import save_sdxl

from disback_diffusers import DisBackPipeline
from disback_diffusers.models.families import StableDiffusionXL


SIZES = "--resolution 16 16x32 --guidance_scale 2 --fake_guidance_scale 1.5".split()  # width x height
LATEST = "--resume_from_checkpoint latest".split()


def finish(words, *traps):
    run = start(words, *traps, script=SDXL_SCRIPT)
    assert run.wait() == 0, run.output


def words_for(teacher, *more):
    return quick_words("--pretrained_teacher_model", str(teacher), *SIZES, *more)


@pytest.mark.parametrize("student, prediction_type", [("lora", "epsilon"), ("full", "v_prediction")])
def test_killed_and_resumed_the_result_is_the_same_and_generates(files, student, prediction_type):
    teacher = save_sdxl(files / "xl", prediction_type=prediction_type)
    words = words_for(teacher, "--student", student, "--cache_text_embeddings", "disk")
    finish([*words, "--output_dir", "whole"])
    for trap in (Trap("open", "log.jsonl a", 4), Trap("open", "log.jsonl a", 2 + 5)):
        run = start([*words, *LATEST], trap, script=SDXL_SCRIPT)
        assert run.wait() == -signal.SIGKILL, run.output
    finish([*words, *LATEST])
    assert differences(result("out"), result("whole")) == []
    pipe = DisBackPipeline.from_pretrained("out")
    assert pipe("a red cat", height=32, width=16).images[0].size == (16, 32)
    assert json.loads((files / "out/disback_config.json").read_text())["method"]["resolution"] == ["16", "16x32"]
    Image.open("out/samples/step-8.png").verify()


def test_accelerate_launch_with_one_process_and_with_two(files, sdxl_folder):
    words = words_for(sdxl_folder, "--train_batch_size", "1")
    launch([*words, "--output_dir", "one", "--resolution", "32"], "--cpu", script=SDXL_SCRIPT)
    launch([*words, "--output_dir", "two"], *TWO_PROCESSES, script=SDXL_SCRIPT)
    for run in start_pair(words, script=SDXL_SCRIPT):
        assert run.wait() == 0, run.output
    assert differences(result("out"), result("two")) == []
    assert DisBackPipeline.from_pretrained("one")("a red cat").images[0].size == (32, 32)


def test_another_vae_decodes_the_samples_and_changes_no_training(files, sdxl_folder):
    vae = AutoencoderKL.from_pretrained(sdxl_folder, subfolder="vae")
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(0.5)
    vae.save_pretrained("other_vae")
    finish(words_for(sdxl_folder))
    finish(words_for(sdxl_folder, "--output_dir", "other", "--pretrained_vae_model_name_or_path", "other_vae"))
    ours, others = (load_file(f"{folder}/pytorch_lora_weights.safetensors") for folder in ("out", "other"))
    assert all(torch.equal(ours[key], others[key]) for key in ours)
    pictures = [(files / folder / "samples/step-8.png").read_bytes() for folder in ("out", "other")]
    assert pictures[0] != pictures[1]


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


def test_a_vae_of_another_kind(fails, files):
    (files / "vae").mkdir()
    (files / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL", "latent_channels": 16}')
    fails("--pretrained_vae_model_name_or_path ./vae", "./vae has 16 latent channels")


def test_a_vae_that_cannot_be_fetched(fails, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fails("--pretrained_vae_model_name_or_path someone/some-vae", "someone/some-vae", "HF_HUB_OFFLINE", code=1)


def test_the_other_family(fails, sd_folder, sdxl_folder):
    fails("--pretrained_teacher_model ./teacher", "StableDiffusionPipeline", "another script",
          family=StableDiffusionXL)  # fmt: skip
    fails(["--pretrained_teacher_model", str(sdxl_folder)], "StableDiffusionXLPipeline", "another script")


@pytest.mark.parametrize(
    "file, values, expected",
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "StableDiffusionXLImg2ImgPipeline"),
        ("model_index.json", {"text_encoder": [None, None]}, "refiner"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"addition_embed_type": None}, "addition_embed_type"),
    ],
)
def test_a_teacher_of_another_kind(fails, changed_teacher, sdxl_folder, file, values, expected):
    changed_teacher(file, sdxl_folder, **values)
    fails("--pretrained_teacher_model ./changed", "./changed", expected, family=StableDiffusionXL)


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_a_text_encoder_that_lacks_a_tensor(fails, changed_teacher, sdxl_folder, encoder):
    file = changed_teacher(teacher=sdxl_folder) / encoder / "model.safetensors"
    tensors = load_file(file)
    name, *others = tensors
    save_file({key: tensors[key] for key in others}, file, {"format": "pt"})
    fails("--pretrained_teacher_model ./changed", f"lacks {name} in {encoder}/", early=False,
          family=StableDiffusionXL)  # fmt: skip
