# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The student's LoRA beside others."""

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.pipelines.adapters import acting_adapters


def save_style(folder, base, seed, text_encoder=False):
    """A LoRA of a few layers as somebody trained it on the base; returns the folder."""
    pipe, parts = DiffusionPipeline.from_pretrained(base), {}
    for name, targets in (("unet", ["to_q"]), ("text_encoder", ["q_proj"]))[: 2 if text_encoder else 1]:
        torch.manual_seed(seed)
        model = getattr(pipe, name)
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        parts[f"{name}_lora_layers"] = get_peft_model_state_dict(model)
    pipe.save_lora_weights(folder, **parts)
    return folder


@pytest.fixture(scope="session")
def styles(family, tmp_path_factory):
    """Two LoRAs' folders; the second one adapts the text encoder as well."""
    folder = tmp_path_factory.mktemp("styles")
    return [save_style(folder / str(seed), family.base, seed, text_encoder=seed == 2) for seed in (1, 2)]


@pytest.fixture
def pipe(family):
    return DisBackPipeline.from_pretrained(family.folders["lora"])


@pytest.fixture
def both(family, styles):
    """Plain diffusers with the base, the student and the first style, both active: what the image should be."""
    from diffusers import LCMScheduler

    plain = DiffusionPipeline.from_pretrained(family.base)
    plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    plain.load_lora_weights(family.folders["lora"], adapter_name="student")
    plain.load_lora_weights(styles[0], adapter_name="style")
    plain.set_adapters(["student", "style"], [1.0, 1.0])
    return plain


ONE_STEP = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0}


def test_the_student_stays_active_beside_a_style(pipe, both, styles, generate, difference):
    alone = generate(pipe)
    pipe.load_lora_weights(styles[0], adapter_name="style")
    assert pipe.get_active_adapters() == ["disback", "style"]
    assert difference(generate(pipe), generate(both, **ONE_STEP)) < 1e-5
    assert difference(generate(pipe), alone) > 1e-3
    pipe.set_adapters(["disback", "style"], [1.0, 0.0])
    assert difference(generate(pipe), alone) < 1e-6


@pytest.mark.slow
def test_a_second_style_joins_and_keeps_their_strengths(pipe, styles, generate, difference):
    pipe.load_lora_weights(styles[0], adapter_name="style")
    pipe.set_adapters(["disback", "style"], [0.9, 0.5])
    before = generate(pipe)
    pipe.load_lora_weights(styles[1])
    assert acting_adapters(pipe.unet) == ["disback", "style", "default_2"]
    assert acting_adapters(pipe.text_encoder) == ["default_2"]
    assert difference(generate(pipe), before) > 1e-3
    pipe.delete_adapters("default_2")
    assert difference(generate(pipe), before) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("how", ["named", "off", "weaker"])
def test_unloading_leaves_the_student(pipe, styles, generate, difference, how):
    alone = generate(pipe)
    for i, style in enumerate(styles):
        pipe.load_lora_weights(style, adapter_name=f"style_{i}")
    if how == "off":
        pipe.set_adapters(["style_0"])
    if how == "weaker":
        pipe.set_adapters(["disback", "style_0"], [1.0, 0.3])
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters()["unet"] == ["disback"] and not acting_adapters(pipe.text_encoder)
    assert difference(generate(pipe), alone) < 1e-6
    pipe.load_lora_weights(styles[0])  # and once more
    assert pipe.get_active_adapters()[0] == "disback"


def test_fused_and_unloaded(pipe, styles, both, generate, difference, warned):
    expected = generate(both, **ONE_STEP)
    pipe.load_lora_weights(styles[0])
    pipe.fuse_lora(components=["unet"])
    assert difference(generate(pipe), expected) < 1e-5
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {} and difference(generate(pipe), expected) < 1e-5
    assert not any("disback" in message for message in warned())


def test_a_style_after_the_student_was_fused(pipe, styles, both, generate, difference):
    pipe.fuse_lora(components=["unet"])
    pipe.load_lora_weights(styles[0])
    assert difference(generate(pipe), generate(both, **ONE_STEP)) < 1e-5


@pytest.mark.slow
def test_a_student_of_another_kind_takes_styles_as_diffusers_does(family, styles, both, generate, difference):
    pipe = DisBackPipeline.from_pretrained(family.folders["unet"])
    alone = generate(pipe)
    pipe.load_lora_weights(styles[0])
    assert difference(generate(pipe), generate(both, **ONE_STEP)) < 1e-5
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {} and difference(generate(pipe), alone) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "turn_off", [lambda pipe: pipe.disable_lora(), lambda pipe: pipe.set_adapters(["style"]),
                 lambda pipe: pipe.fuse_lora(components=["unet"], adapter_names=["style"]),
                 lambda pipe: pipe.set_adapters(["disback", "style"], [0.0, 1.0])]
)  # fmt: skip
def test_the_undistilled_base_is_not_used_without_a_word(pipe, styles, generate, warned, turn_off):
    pipe.load_lora_weights(styles[0], adapter_name="style")
    generate(pipe)
    assert not any("disback" in message for message in warned())
    turn_off(pipe)
    generate(pipe)
    assert any('LoRA "disback" is not active' in message for message in warned())


def test_the_home_folder_and_what_is_active(pipe, styles, monkeypatch):
    """Of a LoRA with a part for the text encoder diffusers would not name the student."""
    monkeypatch.setenv("HOME", str(styles[1].parent))
    pipe.load_lora_weights(f"~/{styles[1].name}")
    assert pipe.get_active_adapters() == ["disback", "default_1"]


def test_deleting_the_student_is_said(pipe, styles, warned):
    pipe.load_lora_weights(styles[0], adapter_name="style")
    pipe.delete_adapters("style")
    assert not any("disback" in message for message in warned())
    pipe.delete_adapters(["disback"])
    assert any('LoRA "disback" is deleted' in message for message in warned())


def test_one_scale_for_all_loras_is_refused(pipe, styles, generate, difference):
    weaker = generate(pipe, cross_attention_kwargs={"scale": 0.5})
    pipe.set_adapters("disback", 0.5)
    assert difference(weaker, generate(pipe)) < 1e-5
    pipe.load_lora_weights(styles[0])
    with pytest.raises(UsageError, match=r'"scale": 0.5.* would weaken the student .*set_adapters'):
        generate(pipe, cross_attention_kwargs={"scale": 0.5})
    generate(pipe, cross_attention_kwargs={"scale": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("state", ["both", "both, text encoder", "weaker", "student off", "all off", "fused"])
def test_what_is_saved_generates_what_the_pipeline_generates(pipe, styles, tmp_path, generate, difference, state):
    pipe.load_lora_weights(styles[state == "both, text encoder"], adapter_name="style")
    if state == "weaker":
        pipe.set_adapters(["disback", "style"], [1.0, 0.3])
    elif state == "student off":
        pipe.set_adapters(["style"])
    elif state == "all off":
        pipe.disable_lora()
    elif state == "fused":
        pipe.fuse_lora(components=["unet"])
    expected, active = generate(pipe), pipe.get_active_adapters()
    pipe.save_pretrained(tmp_path)
    assert pipe.get_active_adapters() == active and difference(generate(pipe), expected) < 1e-6
    for cls in (DisBackPipeline, DiffusionPipeline):
        saved = cls.from_pretrained(tmp_path)
        assert saved.get_list_adapters() == {} and difference(generate(saved), expected) < 1e-5
    is_student = state not in ("student off", "all off")  # what has no student in it has no card that says so
    assert [(tmp_path / name).exists() for name in ("README.md", "disback_config.json")] == [is_student] * 2


def test_what_is_no_student_is_not_saved(family, pipe, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder, wrong, message in (("file", {}, "is a file"), ("a", {"safe_serialization": False}, "pickled")):
        with pytest.raises(UsageError, match=message):
            pipe.save_pretrained(tmp_path / folder, **wrong)
    with pytest.raises(UsageError, match="no student to save"):
        DisBackPipeline.from_pretrained(family.folders["lora"], unet=None).save_pretrained(tmp_path / "b")
    with pytest.raises(UsageError, match="unet already carries a student's LoRA"):
        DisBackPipeline.from_pretrained(family.folders["lora"], unet=pipe.unet)
