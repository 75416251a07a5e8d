# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Whatever is wrong with what the user gives: one line with its name and remedy, an exit code, and nothing lost."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from script_runs import quick_words

from disback_diffusers.training.command_line import parse_args


SCHEDULER = "scheduler/scheduler_config.json"


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# ---------------------------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--lora_rnak 4", "--lora_rnak"),
        ("--seed 1 2", "2"),
        ("--lora_rank 0", "--lora_rank"),
        ("--lora_rank four", "--lora_rank"),
        ("--learning_rate -1", "--learning_rate"),
        ("--learning_rate nan", "--learning_rate"),
        ("--learning_rate inf", "--learning_rate"),
        ("--adam_weight_decay nan", "--adam_weight_decay"),
        ("--seed -1", "--seed"),
        ("--student tiny", "--student"),
        ("--conditioning_timestep 0", "--conditioning_timestep"),
        ("--conditioning_timestep 1000", "--conditioning_timestep 1000"),
        ("--degradation_nodes 7", "--degradation_nodes 7"),
        ("--steps_per_node 4", "--steps_per_node 4"),
        ("--resolution 33", "--resolution 33"),
        ("--resolution 32 64x33", "--resolution 64x33"),
        ("--resolution 64x", "--resolution 64x"),
        ("--resolution 0", "--resolution 0"),
        ("--resolution 32x32x32", "--resolution 32x32x32"),
        ("--pretrained_vae_model_name_or_path ./nowhere", "--pretrained_vae_model_name_or_path ./nowhere"),
        ("--validation_scheduler Nonsense", "--validation_scheduler Nonsense cannot sample this teacher: take one of"),
        ("--validation_scheduler FlowMatchEulerDiscreteScheduler", "cannot sample this teacher: take one of DDIM"),
        ("--log_fd_every 2", "--fd_reference"),
        ("--proportion_later_steps 0.5", "--proportion_later_steps"),
        ("--objective nonsense", "--objective"),
        ("--objective gan", "--objective gan needs --real_images"),
        ("--real_images teacher", "--real_images is for --objective gan, fdiv and guidance, not for dmd"),
        ("--objective gan --real_images nowhere", "--real_images nowhere"),
        ("--objective gan --real_images prompts.txt", "--real_images prompts.txt"),
        ("--objective gan --real_images teacher", "--real_images teacher holds no image"),
        ("--objective gan --real_images teacher --compile", "--compile does not work with --objective gan"),
        ("--objective sid --gan_weight 1", "--gan_weight is for --objective gan and fdiv, not for sid"),
        ("--guidance_rule decoupled --guidance_scale 1", "--guidance_rule decoupled: --guidance_scale is 1"),
        (
            "--guidance_rule decoupled --guidance_max_timestep 500 --guidance_scale 2",
            "--guidance_max_timestep has no effect with --guidance_rule decoupled",
        ),
        ("--timesteps 199,399", "--timesteps 199,399 must be whole numbers, falling"),
        ("--timesteps 1999,399", "--conditioning_timestep 1999 is outside"),
        ("--student_steps 500", "--student_steps 500"),
        ("--init_lora nowhere.safetensors", "--init_lora nowhere.safetensors"),
        ("--init_lora teacher", "--init_lora teacher is no LoRA file and no folder"),
        ("--teacher_lora prompts.txt", "--teacher_lora prompts.txt is no readable safetensors file"),
        ("--negative_prompt bad --guidance_scale 1", "--negative_prompt has no effect without guidance"),
        ("--fake_score_warmup_steps 100", "--fake_score_warmup_steps 100"),
        ("--keep_best fd", "--keep_best fd needs --log_fd_every"),
        ("--student_unet teacher/vae", "AutoencoderKL"),
        ("--student full --student_unet nowhere/at/all", "--student_unet nowhere/at/all"),
        ("--student full --student_unet prompts.txt", "--student_unet prompts.txt"),
        ("--student full --student_unet teacher/vae", "AutoencoderKL"),
        ("--log_fd_every 2 --fd_reference nowhere.safetensors", "--fd_reference nowhere.safetensors"),
        ("--log_fd_every 2 --fd_reference prompts.txt", "--fd_reference prompts.txt"),
        ("--report_to wandb", "--report_to wandb"),
        ("--report_to nonsense", "--report_to"),
        ("--report_to wandb --hub_token secret", "--hub_token"),
        ("--use_8bit_adam", "--use_8bit_adam"),
        ("--enable_xformers_memory_efficient_attention", "--enable_xformers_memory_efficient_attention"),
        ("--mixed_precision fp16", "--mixed_precision fp16"),
        ("--resume_from_checkpoint nonexistent", "--resume_from_checkpoint nonexistent"),
        ("--dry_run --output_dir /dev/null/x", "--output_dir /dev/null/x"),
        ("--dry_run --push_to_hub --hub_model_id a/b/c", "--hub_model_id a/b/c"),
        ("--config", "--config"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_flags(fails, flags, expected):
    fails(flags, expected)


def test_target_modules_that_match_nothing(fails):
    fails("--lora_target_modules to_q nothing", "--lora_target_modules", "'nothing'")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("lora_rnak: 4", "lora_rnak"),
        ("lora_rank: four", "--lora_rank"),
        ("gradient_accumulation_steps: 0", "--gradient_accumulation_steps"),
        ("lora_rank: [4, 5]", "'5'"),
        ("lora_rank: {a: 1}", "'lora_rank'"),
        ("lora_rank: 4\nseed: 1\nlora_rank: 5", "'lora_rank' is there twice"),
        ("compile: perhaps", "--compile"),
        ("student: tiny", "--student"),
        ("lora_rank: [", "settings.yaml"),
        ("lora_rank", "settings.yaml"),
        ("prompt_dataset: 2024-13-45", "settings.yaml"),
        ("variant: \x00", "settings.yaml"),
        (b"variant: \xff", "settings.yaml"),
    ],
)
def test_config_file(fails, files, text, expected):
    (files / "settings.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    fails("--config settings.yaml", expected)


def test_a_mistyped_flag(fails):
    fails("--max_train_step 3", "unknown flag --max_train_step; did you mean --max_train_steps? --help lists them.")


def test_the_command_line_may_correct_what_the_file_alone_would_not_allow(files):
    (files / "settings.yaml").write_text("degradation_nodes: 300\n")
    args = parse_args(quick_words("--config", "settings.yaml", "--degradation_nodes", "3"))
    assert args.path.degradation_nodes == args["degradation_nodes"] == 3


# ---------------------------------------------------------------------------------------------------------------------
# Teacher


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "."])
def test_no_teacher(fails, name):
    fails(["--pretrained_teacher_model", name], f"--pretrained_teacher_model {name}")


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("nobody/nothing", "HF_HUB_OFFLINE is set"),
        ("nothing", "check the name. convert_edm.py makes"),
    ],
)
def test_a_teacher_on_the_hub_while_offline(fails, name, remedy):
    words = ["--pretrained_teacher_model", name]
    fails(words, f"--pretrained_teacher_model {name} is not a local folder", remedy, code=1)


def test_a_teacher_without_scheduler(fails, changed_teacher):
    shutil.rmtree(changed_teacher() / "scheduler")
    fails("--pretrained_teacher_model ./changed", "./changed", "scheduler/")


@pytest.mark.parametrize(
    "file, values, expected",
    [
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "flow_prediction"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": None}, "beta_schedule"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "LCM"),
        ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("model_index.json", {"_class_name": "removed"}, "no known class"),
        ("model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"}, "StableDiffusionInpaintPipeline"),
    ],
)  # fmt: skip
def test_a_teacher_of_another_kind(fails, changed_teacher, file, values, expected):
    changed_teacher(file, **values)
    fails("--pretrained_teacher_model ./changed", "--pretrained_teacher_model ./changed", expected)


@pytest.mark.parametrize("cls", [FlowMatchEulerDiscreteScheduler, EDMEulerScheduler])
def test_a_teacher_whose_scheduler_is_of_another_kind(fails, changed_teacher, cls):
    cls().save_config(changed_teacher() / "scheduler")
    fails("--pretrained_teacher_model ./changed", "--pretrained_teacher_model ./changed", "scheduler")


def test_an_epsilon_teacher_cannot_start_from_pure_noise(fails, changed_teacher):
    changed_teacher(SCHEDULER, rescale_betas_zero_snr=True)
    flags = "--pretrained_teacher_model ./changed --conditioning_timestep"
    fails(f"{flags} 999", "--conditioning_timestep 999", "pure noise")


def test_pickled_weights_are_not_loaded(fails, changed_teacher):
    file = changed_teacher() / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    fails("--pretrained_teacher_model ./changed", "./changed", "unet/", "safetensors", early=False)


def test_an_sdxl_teacher(fails, sdxl_folder):
    fails(["--pretrained_teacher_model", str(sdxl_folder)], "StableDiffusionXLPipeline", "another script")


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
def test_a_broken_config(fails, changed_teacher, file):
    halve(changed_teacher() / file)
    fails("--pretrained_teacher_model ./changed", "./changed", file.split("/")[0])


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_truncated_weights(fails, changed_teacher, part):
    halve(changed_teacher() / f"{part}.safetensors")
    fails("--pretrained_teacher_model ./changed", "./changed", part.split("_")[0].split("/")[0], early=False)


@pytest.mark.parametrize(
    "file", [f"{part}/diffusion_pytorch_model" for part in ("unet", "vae")] + ["text_encoder/model"]
)
def test_weights_that_lack_a_tensor(fails, changed_teacher, file):
    part, file = file.split("/")[0], changed_teacher() / f"{file}.safetensors"
    tensors = load_file(file)
    name, *others = tensors
    save_file({key: tensors[key] for key in others}, file, {"format": "pt"})
    fails("--pretrained_teacher_model ./changed", "./changed", f"lacks {name} in {part}/", early=False)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


@pytest.mark.parametrize("flag", ["--prompt_dataset", "--validation_prompts"])
@pytest.mark.parametrize(
    "content, expected",
    [(None, "No such file"), (b"", "no prompt"), (b" \n\n", "no prompt"), (bytes(range(256)) * 9, "UTF-8"),
     (b"a cat\0a dog", "binary"), ("ein Käfer".encode("latin-1"), "UTF-8")],
)  # fmt: skip
def test_prompts(fails, files, flag, content, expected):
    if content is not None:
        (files / "bad.txt").write_bytes(content)
    fails(f"{flag} bad.txt", f"{flag} bad.txt", expected)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("p.jsonl", '{"caption": "a"}\n', "--caption_column"),
        ("p.jsonl", '{"text": "a"}\n{"text": "b"\n', "line 2"),
        ("p.jsonl", '{"text": ["a"]}\n', "--caption_column"),
        ("p.jsonl", '"a"\n', "--caption_column"),
        ("p.jsonl", '{"text": "a"}\n{"caption": "b"}\n', "row 2 (it has caption)"),
        ("p.jsonl", '{"text": "a"}\n{"text": 7}\n', "no text in row 2"),
        ("p.csv", "caption\na\n", "--caption_column"),
        ("p.csv", "text,n\na,1\n" + "b" * 200_000 + ",2\n", "p.csv"),
        ("p.csv", "", "no prompt"),
        ("p.parquet", None, "No such file"),
        ("p.parquet", "nonsense", "no readable parquet file"),
        ("p.png", "nonsense", "expected a .txt"),
        ("nobody/nothing", None, "cannot be loaded"),
    ],
)
def test_prompt_files_of_other_kinds(fails, files, name, content, expected):
    if content is not None:
        (files / name).write_text(content)
    fails(f"--prompt_dataset {name}", f"--prompt_dataset {name}", expected)


def test_a_parquet_file_without_that_column(fails, files):
    from datasets import Dataset

    Dataset.from_dict({"caption": ["a"], "n": [1]}).to_parquet(files / "p.parquet")
    fails("--prompt_dataset p.parquet", "'text'", "caption", "--caption_column")
    fails("--prompt_dataset p.parquet --caption_column n", "'n' is no text", "--caption_column")


# ---------------------------------------------------------------------------------------------------------------------
# Another UNet for the student


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"cross_attention_dim": 64}, "cross_attention_dim 64, the teacher's UNet 32"),
        ({"in_channels": 9}, "in_channels 9, the teacher's UNet 4"),
        ({"addition_embed_type": "text"}, "addition_embed_type text, the teacher's UNet None"),
        ({"time_cond_proj_dim": 16}, "time_cond_proj_dim 16, the teacher's UNet None"),
        ({"block_out_channels": [4]}, "config"),
    ],
)
def test_a_student_unet_that_does_not_fit(fails, small_unet, files, values, expected):
    config = {**json.loads((small_unet / "config.json").read_text()), **values}
    (files / "other").mkdir()
    (files / "other" / "config.json").write_text(json.dumps(config))
    fails("--student full --student_unet ./other", "--student_unet ./other", expected)


@pytest.mark.parametrize("damage", [halve, Path.unlink])
def test_a_student_unet_without_its_weights(fails, small_unet, files, damage):
    shutil.copytree(small_unet, files / "other")
    damage(files / "other" / "diffusion_pytorch_model.safetensors")
    fails("--student full --student_unet ./other", "--student_unet ./other", early=False)
