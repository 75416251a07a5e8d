# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Teachers with settings that make no sense: one line before weights are loaded, in a dry run as well."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from script_runs import log, quick_words, start

from disback_diffusers.models.families import StableDiffusionXL


CHANGED = "--pretrained_teacher_model ./changed --dry_run"
SETTINGS = [
    ("unet/config.json", {"act_fn": "foo"}, "has no valid unet/ config"),
    ("unet/config.json", {"down_block_types": ["Foo", "Bar"]}, "has no valid unet/ config"),
    ("unet/config.json", {"norm_num_groups": 0}, "has no valid unet/ config"),
    ("unet/config.json", {"block_out_channels": None}, "has no valid unet/ config"),
    ("vae/config.json", {"block_out_channels": None}, "has no valid vae/ config"),
    ("vae/config.json", {"scaling_factor": None}, "has a VAE with scaling_factor None"),
    ("vae/config.json", {"scaling_factor": "0.18"}, "has a VAE with scaling_factor '0.18'"),
    ("vae/config.json", {"scaling_factor": 0}, "has a VAE with scaling_factor 0"),
    ("text_encoder/config.json", {"hidden_act": "foo"}, "has no valid text_encoder/ config: KeyError 'foo'"),
    ("tokenizer/tokenizer_config.json", {"model_max_length": -1}, "model_max_length -1 in tokenizer/"),
    ("tokenizer/tokenizer_config.json", {"model_max_length": 1}, "model_max_length 1 in tokenizer/"),
    ("tokenizer/tokenizer_config.json", {"model_max_length": "77"}, "tokenizer"),
    ("scheduler/scheduler_config.json", {"prediction_type": None}, "prediction_type None is not supported"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "scheduler/"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": "1000"}, "scheduler/"),
    ("scheduler/scheduler_config.json", {"beta_start": "0.1"}, "scheduler/"),
    ("scheduler/scheduler_config.json", {"beta_start": -0.1}, "scheduler/"),
    ("scheduler/scheduler_config.json", {"trained_betas": "x"}, "scheduler/"),
    ("model_index.json", {"text_encoder": "CLIPTextModel"}, "has no text_encoder"),
]


@pytest.mark.parametrize("file, values, expected", SETTINGS, ids=lambda value: str(value)[:40])
def test_settings(fails, changed_teacher, file, values, expected):
    changed_teacher(file, **values)
    fails(CHANGED, "./changed", expected)


@pytest.mark.parametrize("text", ["[]", "null", "{"])
@pytest.mark.parametrize(
    "file",
    ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json",
     "text_encoder/config.json"],
)  # fmt: skip
def test_json_of_another_kind(fails, changed_teacher, file, text):
    (changed_teacher() / file).write_text(text)
    fails(CHANGED, "./changed", file.partition("/")[0])


@pytest.mark.parametrize("name", ["addition_time_embed_dim", "projection_class_embeddings_input_dim"])
def test_settings_of_sdxl(fails, changed_teacher, sdxl_folder, name):
    changed_teacher("unet/config.json", sdxl_folder, **{name: None})
    fails(CHANGED, "has no valid unet/ config", family=StableDiffusionXL)


def test_a_tokenizer_without_its_vocabulary(fails, changed_teacher):
    folder = changed_teacher() / "tokenizer"
    for file in folder.iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    fails(CHANGED, "has no vocabulary in tokenizer/")


def test_damaged_weights(fails, changed_teacher):
    file = changed_teacher() / "unet/diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for content, expected in (
        (whole[:100], "is damaged"),
        (whole[:-100], "is damaged"),
        (b"", "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ):
        file.write_bytes(content)
        fails(CHANGED, "unet/diffusion_pytorch_model.safetensors", expected)
    file.unlink()
    shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
    (file.parent / shard).write_bytes(whole)
    index = file.parent / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard, "b": shard.replace("00001-", "00002-")}}))
    fails(CHANGED, "00002-of-00002.safetensors is missing")
    index.write_text("[]")
    fails(CHANGED, "index.json is damaged")


def test_a_size_beyond_all_measure(fails):
    fails("--resolution 1000000", "--resolution 1000000 is larger than")


# ---------------------------------------------------------------------------------------------------------------------
# Other models


def test_a_vae_without_a_scaling_factor(fails, files, sd_folder):
    shutil.copytree(sd_folder / "vae", files / "vae")
    file = files / "vae/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scaling_factor": None}))
    flag = "--pretrained_vae_model_name_or_path"
    fails(f"{flag} ./vae", flag, "scaling_factor None")
    file.write_text("null")
    fails(f"{flag} ./vae", flag, "./vae")


def test_a_unet_that_predicts_something_else(fails, changed_teacher):
    changed_teacher("scheduler/scheduler_config.json", prediction_type="v_prediction")
    fails("--student full --student_unet ./changed", "--student_unet ./changed predicts v_prediction", "epsilon")


def test_a_whole_student_as_the_student_unet(fails, changed_teacher):
    (changed_teacher() / "disback_config.json").write_text('{"format": 1, "conditioning_timestep": 399}')
    fails("--student full --student_unet ./changed", "saved as a whole pipeline")


@pytest.mark.parametrize("flag", ["--student_unet", "--pretrained_vae_model_name_or_path"])
def test_other_models_in_half_precision_only(files, sd_folder, small_unet, flag):
    """There is nothing to choose, and the weights are used in float32 anyway."""
    source, name = (small_unet, "unet") if "unet" in flag else (sd_folder / "vae", "vae")
    shutil.copytree(source, files / name)
    weights = files / name / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    run = start(quick_words(flag, f"./{name}", *(["--student", "full"] if name == "unet" else [])))
    assert run.wait() == 0, run.output


def test_a_student_of_disback_as_an_lcm_lora(fails, files, sd_folder):
    student = files / "student"
    student.mkdir()
    (student / "disback_config.json").write_text('{"format": 1, "conditioning_timestep": 399, "method": {}}')
    fails("--lcm_lora ./student", "--lcm_lora ./student is a student of DisBack")
    (student / "disback_config.json").unlink()
    (student / "pytorch_lora_weights.bin").write_bytes(b"x")
    fails("--lcm_lora ./student", "has pickled weights")


# ---------------------------------------------------------------------------------------------------------------------
# What else a run reads


@pytest.fixture
def run_folder(files):
    """./out, a finished run."""
    run = start(quick_words())
    assert run.wait() == 0, run.output
    return files / "out"


def test_manifests(fails, run_folder):
    file = run_folder / "degradation/manifest.json"
    manifest = json.loads(file.read_text())
    flags = ["--output_dir", "other", "--degradation_path"]
    broken = [{"nodes": []}, {"settings": None}, {"settings": []}, {"base_fingerprint": None}]
    broken += [{"nodes": [manifest["nodes"][0], {**manifest["nodes"][1], key: value}]}
               for key, value in (("file", None), ("file", 5), ("step", "2"))]  # fmt: skip
    for values in broken:
        file.write_text(json.dumps({**manifest, **values}))
        fails([*flags, "out/degradation"], "--degradation_path", "is no manifest", early=False)
    file.write_text(json.dumps(manifest))
    fails([*flags, "out/degradation/manifest.json", "--conditioning_timestep", "200"], "--conditioning_timestep 399",
          early=False)  # fmt: skip


def test_resuming(fails, run_folder):
    latest = "--resume_from_checkpoint latest"
    fails(f"--max_train_steps 6 {latest}", "--max_train_steps 6 is less than the 8 updates", early=False)
    fails(f"--max_train_steps 9 --lr_scheduler cosine {latest}", "--lr_scheduler is constant there", early=False)
    state = run_folder / "checkpoint-8/state.json"
    whole = state.read_text()
    state.write_text(json.dumps({**json.loads(whole), "step": "8"}))
    fails(latest, "checkpoint-8 is damaged", early=False)
    state.write_text(whole)
    with open(run_folder / "log.jsonl", "ab") as file:
        file.write(b"\xff\n")
    run = start(quick_words("--resume_from_checkpoint", "latest", "--max_train_steps", "9"))
    assert run.wait() == 0, run.output
    assert [line["step"] for line in log("out")][-2:] == [8, 9]


def test_a_logging_dir_that_is_a_file(fails, files):
    (files / "out").mkdir()
    (files / "out/logs").write_text("x")
    fails("--report_to tensorboard", "--logging_dir logs is a file", early=False)


def test_references(fails, files):
    import torch
    from safetensors.torch import save_file

    from disback_diffusers.evaluation.reference import FORMAT
    from disback_diffusers.models.embedded import REFERENCE

    tensors = {name: value for name, value in load_file(REFERENCE).items() if name in ("mean", "covariance")}
    metadata = {"format": FORMAT, "extractor": "embedded", "size": "32", "count": "9"}
    mean = tensors["mean"]
    for changed, expected in (
        ({"mean": torch.full_like(mean, torch.nan)}, "values that are not finite"),
        ({"mean": mean[:-1].clone()}, "shapes that do not fit"),
        ({"mean": None}, "no mean"),
    ):
        broken = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
        save_file(broken, files / "r.safetensors", metadata)
        for dry in ([], ["--dry_run"]):
            fails(["--log_fd_every", "1", "--fd_reference", "r.safetensors", *dry], "--fd_reference", expected)
    save_file(tensors, files / "r.safetensors", {**metadata, "size": "abc"})
    fails("--log_fd_every 1 --fd_reference r.safetensors", "is damaged")
