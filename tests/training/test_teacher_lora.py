# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Runs whose teacher has a LoRA."""

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_students import add_text_encoders, lora_student, save_kohya, save_peft

from disback_diffusers import distill
from disback_diffusers.errors import UsageError
from disback_diffusers.models.text_lora import text_updates


@pytest.fixture
def style(sd_folder, tmp_path):
    return str(save_peft(tmp_path / "style", lora_student(sd_folder)))


@pytest.mark.parametrize("student", ["lora", "full"])
def test_every_network_starts_from_the_teacher_with_it(make_context, sd_folder, style, student):
    context, plain = make_context(teacher_lora=style, student=student), make_context()
    source = lora_student(sd_folder)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = context.batches.conditions([0, 1]).tensors["text"]
    expected = source.network(z, torch.full((2,), 399), text).sample.detach()
    for denoiser in (context.networks.teacher, context.networks.fake, context.student.denoiser):
        torch.testing.assert_close(context.output(denoiser), expected, atol=1e-4, rtol=1e-3)
    assert (plain.output(plain.networks.teacher) - expected).abs().mean() > 0.01
    assert context.roles.fingerprint != plain.roles.fingerprint, "a path of the bare teacher does not fit"


def test_its_strength(make_context, style):
    bare, contexts = make_context(), {s: make_context(teacher_lora=style, teacher_lora_strength=s)
                                      for s in (1e-6, 0.5, 1.0)}  # fmt: skip
    outputs = {s: context.output(context.networks.teacher) for s, context in contexts.items()}
    torch.testing.assert_close(outputs[1e-6], bare.output(bare.networks.teacher), atol=1e-3, rtol=1e-3)
    distances = [(outputs[s] - outputs[1e-6]).norm() for s in (0.5, 1.0)]
    assert 0 < distances[0] < distances[1]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lora", "full"])
def test_the_artifact_has_it_where_the_student_needs_it(make_args, style, student, tmp_path, monkeypatch):
    from disback_diffusers import DisBackPipeline

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = {"no_backtracking": True, "max_train_steps": 1, "validation_steps": 0, "learning_rate": 1e-9}
    folder = distill(make_args(teacher_lora=style, teacher_lora_strength=0.5, student=student, **settings))
    assert (folder / "teacher_lora.safetensors").is_file() == (student == "lora")
    pipe, other = DisBackPipeline.from_pretrained(folder), DisBackPipeline.from_pretrained(
        distill(make_args(student=student, **settings, output_dir=str(tmp_path / "bare"))))  # fmt: skip
    images = [
        p("a cat", generator=torch.Generator().manual_seed(0), output_type="latent").images for p in (pipe, other)
    ]
    assert (images[0] - images[1]).abs().mean() > 0.01
    assert "at strength 0.5" in (folder / "README.md").read_text()


@pytest.fixture(params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def styled_text(request, tmp_path):
    """A teacher's folder and a LoRA of its UNet and its text encoders."""
    base = request.getfixturevalue(f"{request.param}_folder")
    return str(base), str(add_text_encoders(save_kohya(tmp_path / "style", lora_student(base)), base))


def encoded(pipe):
    return pipe.encode_prompt("a red cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]


def test_text_encoders_that_it_adapts_encode_as_in_plain_diffusers(make_context, styled_text):
    base, style = styled_text
    settings = {"pretrained_teacher_model": base, "teacher_lora_strength": 0.5}
    context = make_context(teacher_lora=style, **settings)
    pipe = DiffusionPipeline.from_pretrained(base)
    bare = encoded(pipe)
    pipe.load_lora_weights(style)
    pipe.fuse_lora(lora_scale=0.5)
    expected = encoded(pipe)
    found = context.batches.conditions([0]).tensors["text"]
    assert (expected - bare).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_files_without_out_proj_lose_nothing(make_context, sd_folder, tmp_path):
    """diffusers leaves their other attention layers out."""
    kohya = save_kohya(tmp_path / "style", lora_student(sd_folder))
    tensors = load_file(add_text_encoders(kohya, sd_folder, layers=("q_proj", "fc1")))
    pipe = DiffusionPipeline.from_pretrained(sd_folder)
    for name, layer in pipe.text_encoder.named_modules():
        key = f"lora_te_text_model_{name.removeprefix('text_model.').replace('.', '_')}"
        if f"{key}.alpha" in tensors:
            layer.weight.data += 0.5 * tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
    expected = encoded(pipe)
    context = make_context(teacher_lora=str(kohya))
    torch.testing.assert_close(context.batches.conditions([0]).tensors["text"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "metadata, scale",
    [({"text_encoder.r": 2, "text_encoder.lora_alpha": 6}, 3.0), ({}, 1.0),
     ({"text_encoder.lora_alpha": 6, "text_encoder.use_rslora": True}, 6 / 2**0.5)],
)  # fmt: skip
def test_files_of_peft(metadata, scale):
    layer = "text_model.encoder.layers.0.mlp.fc1"
    state = {f"text_encoder.{layer}.lora_A.weight": torch.ones(2, 4), f"text_encoder.{layer}.lora_B.weight":
             torch.ones(3, 2), "unet.conv_in.lora_A.weight": torch.ones(1)}  # fmt: skip
    (update,) = text_updates(state, {}, metadata)["text_encoder"].values()
    assert update.scale == scale and update.down.shape == (2, 4) and update.up.shape == (3, 2)


def test_its_strength_is_part_of_the_cache_of_embeddings(make_context, styled_text):
    base, style = styled_text
    settings = {"pretrained_teacher_model": base, "teacher_lora": style, "cache_text_embeddings": "disk"}
    first, second = (
        make_context(**settings, teacher_lora_strength=s).batches.conditions([0]).tensors["text"] for s in (0.5, 1.0)
    )
    assert (first - second).abs().max() > 0.01


def test_text_encoders_that_cannot_be_adapted(make_context, sd_folder, tmp_path):
    kohya = save_kohya(tmp_path / "style", lora_student(sd_folder))
    style = str(add_text_encoders(kohya, sd_folder))
    with pytest.raises(UsageError, match="--teacher_lora .* adapts a text encoder too, which a full student"):
        make_context(teacher_lora=style, student="full")
    with pytest.raises(UsageError, match="--init_lora .* holds text_encoder.*: it must hold weights of a UNet only"):
        make_context(init_lora=style)
    add_text_encoders(kohya, sd_folder, wider=8)
    with pytest.raises(UsageError, match="does not fit the text_encoder: text_model.encoder.layers.0.*of another sha"):
        make_context(teacher_lora=style)
    save_file({key: value for key, value in load_file(style).items() if key.startswith("lora_te")}, style)
    with pytest.raises(UsageError, match=r"--teacher_lora .* holds no UNet layers: .* UNet \(and its text encoders\)"):
        make_context(teacher_lora=style)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"teacher_lora_strength": 0.5}, "--teacher_lora_strength has no effect without --teacher_lora"),
        ({"teacher_lora": "./nowhere"}, "--teacher_lora ./nowhere is no LoRA file"),
    ],
)
def test_settings_that_cannot_work(make_context, settings, expected):
    with pytest.raises(UsageError, match=expected):
        make_context(**settings)
