# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Teachers that cannot be distilled, or not as they were given: one line before weights are loaded, dry run or not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler, LCMScheduler
from script_runs import QUICK, quick_words, start
from tiny_models import SCHEDULER as BETAS
from tiny_models import build_sd, build_tokenizer
from tiny_students import save_students
from transformers import BertConfig, BertModel, CLIPTextModel

from disback_diffusers import UsageError
from disback_diffusers.models.distilled import signs_of_distillation
from disback_diffusers.models.families import StableDiffusionXL, open_teacher
from disback_diffusers.models.pipeline_files import PipelineFiles
from disback_diffusers.models.student_unet import StudentUNet


CHANGED = "--pretrained_teacher_model ./changed"


def edit(file, **values):
    config = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "removed"}))


@pytest.fixture
def refused(fails):
    """As `fails`, for a run and for a dry run."""

    def check(flags, *expected, **kwargs):
        fails(flags, *expected, **kwargs)
        fails(f"{flags} --dry_run", *expected, **kwargs)

    return check


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_weights_of_another_variant_only(refused, files):
    build_sd().save_pretrained(files / "fp16", variant="fp16")
    refused("--pretrained_teacher_model fp16", "weights in unet/ as variant fp16 only", "--variant fp16")
    refused(
        "--pretrained_teacher_model fp16 --variant bf16", "weights in unet/ as variant fp16 only", "--variant fp16"
    )


def test_a_variant_that_no_part_has(refused):
    refused("--variant fp16", "has no weights of --variant fp16")


def test_each_part_takes_the_variant_it_has(files, sd_folder):
    shutil.copytree(sd_folder, files / "both")
    other = build_sd(seed=5)
    other.unet.save_pretrained(files / "both" / "unet", variant="non_ema")
    teacher = open_teacher("both", variant="non_ema")
    stock = DiffusionPipeline.from_pretrained("both", variant="non_ema")
    network = teacher.load_network()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), stock.unet.parameters(), strict=True))
    assert torch.equal(network.conv_in.weight, other.unet.conv_in.weight)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = stock.vae.decode(latents / stock.vae.config.scaling_factor).sample
    torch.testing.assert_close(teacher.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    "names, wanted, expected",
    [
        (["model.safetensors"], None, None),
        (["model.fp16.safetensors", "model.safetensors"], "fp16", "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.safetensors", "x.json"], "fp16", None),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16", "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16", "fp16"),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.non_ema.bin"], "non_ema", "non_ema"),
        (["model.fp16.safetensors"], None, "as variant fp16 only"),
        (["pytorch_model.bin"], None, "only .bin files"),
        (["diffusion_pytorch_model.fp16.bin", "config.json"], "fp16", "only .bin files"),
        (["config.json"], None, "has no weights in unet/"),
    ],
)
def test_names_of_weight_files(tmp_path, names, wanted, expected):
    (tmp_path / "unet").mkdir()
    for name in names:
        (tmp_path / "unet" / name).touch()
    files = PipelineFiles(str(tmp_path))
    if expected in (None, wanted):
        assert files.variant("unet", wanted) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            files.variant("unet", wanted)


def test_another_unet_or_vae(fails, files, small_unet):
    """They are checked as the teacher is."""
    for name in ("model.safetensors", "model.ckpt"):
        (files / name).touch()
    for flags in ("--student full --student_unet", "--pretrained_vae_model_name_or_path"):
        fails(f"{flags} model.safetensors", "model.safetensors is a single file", "from_single_file")
        fails(f"{flags} model.ckpt", "model.ckpt is a pickled file")
        fails(f"{flags} none.safetensors", "none.safetensors: there is no such file")
    fails("--lcm_lora lora.bin", "--lcm_lora lora.bin is a pickled file")


def test_the_variant_is_also_that_of_another_unet_and_vae(files):
    build_sd().save_pretrained("teacher16", variant="fp16")
    other = build_sd(seed=3)
    other.unet.save_pretrained("unet16", variant="fp16")
    other.vae.save_pretrained("vae", variant="none")  # no such file: its plain one is taken
    other.vae.save_pretrained("vae")
    teacher = open_teacher("teacher16", variant="fp16")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    own = teacher.decode(latents)
    teacher = open_teacher("teacher16", variant="fp16")
    teacher.use_vae("vae")
    with torch.no_grad():
        decoded = other.vae.decode(latents / other.vae.config.scaling_factor).sample
    torch.testing.assert_close(teacher.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
    assert not torch.allclose(own, teacher.decode(latents), atol=1e-3)
    student = StudentUNet("unet16", teacher.network_config, "fp16").load()
    assert torch.equal(student.conv_in.weight, other.unet.conv_in.weight)


def test_pickled_weights(refused, files):
    build_sd().save_pretrained(files / "bin", safe_serialization=False)
    refused("--pretrained_teacher_model bin", "no safetensors in unet/", ".bin files", "use_safetensors=False")


@pytest.mark.parametrize("name", ["m.safetensors", "models/m.safetensors", "owner/m.ckpt", "M.PT"])
@pytest.mark.parametrize("there", [True, False])
def test_a_single_file(refused, files, name, there):
    if there:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    what = " is a single file" if name.endswith("safetensors") else " is a pickled file"
    expected = name + (what if there else ": there is no such file")
    refused(f"--pretrained_teacher_model {name}", expected, "from_single_file(FILE).save_pretrained")


# ---------------------------------------------------------------------------------------------------------------------
# Text encoder and tokenizer


def test_no_tokenizer(refused, changed_teacher):
    shutil.rmtree(changed_teacher() / "tokenizer")
    refused(CHANGED, "has no tokenizer")


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_pipeline_saved_without_a_part(refused, changed_teacher, part):
    changed_teacher("model_index.json", **{part: [None, None]})
    refused(CHANGED, f"has no {part}")


def test_a_tokenizer_with_more_tokens_than_the_encoder(refused, changed_teacher):
    folder, tokenizer = changed_teacher(), build_tokenizer()
    tokenizer.add_tokens("<token>")
    tokenizer.save_pretrained(folder / "tokenizer")
    refused(CHANGED, "541 tokens in tokenizer/", "embeddings of 540 in text_encoder/")


@pytest.mark.parametrize(
    "value, expected", [("removed", "no model_max_length"), (512, "model_max_length 512"), (64, None)]
)
def test_lengths_of_prompts(refused, changed_teacher, value, expected):
    folder = changed_teacher()
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=value)
    if expected:
        refused(CHANGED, expected, "tokenizer/tokenizer_config.json", "77")
    else:
        teacher = open_teacher(str(folder))
        assert teacher.prompt_tokens == 64 and teacher.load_encoder("cpu")(["a cat"]).tensors["text"].shape[1] == 64


def test_another_text_encoder(refused, changed_teacher):
    folder = changed_teacher("model_index.json", text_encoder=["transformers", "BertModel"])
    refused(CHANGED, "has a BertModel as its text_encoder", "CLIPTextModel")
    edit(folder / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    shutil.rmtree(folder / "text_encoder")
    config = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(folder / "text_encoder")
    refused(CHANGED, "has a bert in text_encoder/", "CLIPTextModel")


def test_a_text_encoder_of_another_size(refused, changed_teacher):
    folder = changed_teacher()
    config = CLIPTextModel.from_pretrained(folder / "text_encoder").config
    config.update({"hidden_size": 48})
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    refused(CHANGED, "prompts of size 32", "text_encoder give 48")


def test_parts_of_another_sdxl(fails, changed_teacher, sdxl_folder):
    folder = changed_teacher("unet/config.json", sdxl_folder, projection_class_embeddings_input_dim=96)
    fails(CHANGED, "pooled prompts of size 48", "text_encoder_2 gives 32", family=StableDiffusionXL)
    edit(folder / "unet" / "config.json", projection_class_embeddings_input_dim=80)
    edit(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=64)
    fails(CHANGED, "different model_max_length", family=StableDiffusionXL)
    shutil.rmtree(folder / "tokenizer_2")
    fails(CHANGED, "has no tokenizer_2", family=StableDiffusionXL)


# ---------------------------------------------------------------------------------------------------------------------
# UNet


def test_a_unet_without_a_size(refused, changed_teacher, monkeypatch):
    folder = changed_teacher("unet/config.json", sample_size=None)
    monkeypatch.setattr("script_runs.QUICK", [word for word in QUICK if word not in ("--resolution", "16")])
    refused(CHANGED, "UNet without sample_size", "--resolution")
    teacher = open_teacher(str(folder))
    assert teacher.buckets(["32"])[0].shape == (4, 16, 16)


def test_a_unet_that_is_not_square(changed_teacher):
    teacher = open_teacher(str(changed_teacher("unet/config.json", sample_size=[16, 24])))
    assert teacher.default_resolution == "48x32" and teacher.buckets([])[0].shape == (4, 16, 24)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"out_channels": 8}, "8 output channels"),
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"num_class_embeds": 10}, "num_class_embeds 10"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
        ({"addition_embed_type": "text"}, "addition_embed_type 'text'"),
    ],
)
def test_a_unet_of_another_kind(refused, changed_teacher, values, expected):
    changed_teacher("unet/config.json", **values)
    refused(CHANGED, expected)


# ---------------------------------------------------------------------------------------------------------------------
# Distilled already


def test_our_own_students(refused, files, sd_folder):
    folders, _ = save_students(sd_folder, files / "students")
    for kind in ("lora", "unet", "full"):
        refused(f"--pretrained_teacher_model students/{kind}", "DisBack", "the model it was distilled from")
    # Saved again by plain diffusers, without disback_config.json.
    DiffusionPipeline.from_pretrained(folders["full"]).save_pretrained("again")
    refused("--pretrained_teacher_model again", "guidance-distilled UNet")


def test_a_model_with_a_few_step_scheduler(refused, changed_teacher):
    LCMScheduler(**BETAS).save_pretrained(changed_teacher() / "scheduler")
    refused(CHANGED, "it has an LCMScheduler", "take the model it was distilled from")


def test_what_only_seems_so_is_a_warning(changed_teacher):
    folder = changed_teacher()
    assert open_teacher(str(folder)).warnings == []
    EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    (warning,) = open_teacher(str(folder)).warnings
    assert "EulerAncestralDiscreteScheduler" in warning and "may have been distilled" in warning


@pytest.mark.parametrize(
    "source, origin, certain, seems",
    [
        ("stabilityai/sdxl-turbo", "", True, False),
        ("./model", "ByteDance/SDXL-Lightning", True, False),
        ("openai/diffusers-cd_imagenet64_l2", None, True, False),
        ("./diffusers-ct_bedroom256", None, False, True),
        ("SimianLuo/LCM_Dreamshaper_v7", "", True, False),
        ("someone/dreamshaper-xl-v2-turbo", "", False, True),
        ("/models/mine_4steps", "", False, True),
        ("/turbo/mine", "/home/somebody/hyper-sd15", False, True),
        ("/turbo/mine", "", False, False),
        ("owner/hyper-realistic-vision", "", False, False),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "", False, False),
    ],
)
def test_names_of_few_step_models(source, origin, certain, seems):
    scheduler = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    found = signs_of_distillation(source, {"_name_or_path": origin}, {}, scheduler, has_our_config=False)
    assert [bool(sign) for sign in found] == [certain, seems]


def test_the_embedded_teacher_is_none():
    assert open_teacher("embedded").warnings == []


def test_the_warning_is_printed(files, sd_folder):
    shutil.copytree(sd_folder, files / "my-turbo")
    run = start(quick_words("--pretrained_teacher_model", "my-turbo", "--dry_run"))
    assert run.wait() == 0 and run.output.count("my-turbo may have been distilled to a few steps already") == 1
