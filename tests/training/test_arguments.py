# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from disback_diffusers.errors import UsageError
from disback_diffusers.training.command_line import parse_args


NEEDED = ["--pretrained_teacher_model", "x", "--prompt_dataset", "y"]
LONG_PATH = "--steps_per_node 10 --degradation_nodes 3 --max_train_steps 20".split()
PRESETS = sorted((Path(__file__).parents[2] / "train_scripts" / "presets").glob("*.yaml"))


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "lora_rank: 8\nlearning_rate: 1e-3\nno_backtracking: true\nreport_to: [tensorboard]\nvariant: null\n"
    )
    args = parse_args([*NEEDED, "--config", str(file), "--lora_rank", "16"])
    assert (args.lora_rank, args.learning_rate, args.no_backtracking, args.report_to) == (
        16,
        1e-3,
        True,
        ["tensorboard"],
    )
    assert args.lora_alpha == 16 and args.fake_score_init == "teacher" and args.variant is None


def test_every_setting_survives_the_file_that_a_run_leaves(tmp_path):
    import yaml

    args = parse_args([*NEEDED, "--student", "full", "--validation_prompts", "a cat", "two: dogs", "--compile"])
    file = tmp_path / "arguments.yaml"
    file.write_text(yaml.safe_dump(args.settings()))
    assert parse_args(["--config", str(file)]).settings() == args.settings()


def test_no_tracker():
    assert parse_args([*NEEDED, "--report_to", "none"]).report_to == []


def test_what_yaml_takes_for_false(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("mixed_precision: no\ncache_text_embeddings: off\n")
    args = parse_args([*NEEDED, "--config", str(file)])
    assert (args.mixed_precision, args.cache_text_embeddings) == ("no", "off")


@pytest.mark.parametrize("words, timestep", [([], 399), (["--lcm_lora", "l"], 999)])
def test_the_timestep_is_that_of_the_student_s_kind(words, timestep):
    preset = ["--config", str(next(path for path in PRESETS if path.stem == "sd15_24gb"))]
    assert parse_args([*NEEDED, *words]).conditioning_timestep == timestep
    assert parse_args([*NEEDED, *preset, *words]).conditioning_timestep == timestep
    assert parse_args([*NEEDED, *words, "--conditioning_timestep", "99"]).conditioning_timestep == 99


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    words = [] if "pretrained_teacher_model" in preset.read_text() else NEEDED[:2]
    args = parse_args(["--config", str(preset), "--prompt_dataset", "y", *words])
    assert args.pretrained_teacher_model and args.checkpoints_total_limit


@pytest.mark.parametrize("name, kind", [("one_gpu", "NO"), ("multi_gpu", "MULTI_GPU")])
def test_configs_for_accelerate(name, kind):
    config = load_config_from_file(str(PRESETS[0].parents[1] / "accelerate_configs" / f"{name}.yaml"))
    assert (config.distributed_type.value, config.mixed_precision) == (kind, "bf16")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--prompt_dataset", "y"], "--pretrained_teacher_model"),
        ([*NEEDED, "--degradation_nodes", "9", "--degradation_steps", "8"], "--degradation_nodes 9"),
        ([*NEEDED, "--node_switching", "fixed", *LONG_PATH], "true teacher"),
        ([*NEEDED, "--student", "full", "--student_unet", "u", *LONG_PATH], "true teacher"),
        ([*NEEDED, "--no_backtracking", "--fake_score_init", "node"], "--fake_score_init"),
        ([*NEEDED, "--no_backtracking", "--degradation_path", "p"], "--degradation_path"),
        ([*NEEDED, "--report_to", "wandb", "--hub_token", "t"], "--hub_token"),
        ([*NEEDED, "--ema_decay", "1"], "--ema_decay"),
    ],
)
def test_combinations_that_cannot_work(words, expected):
    with pytest.raises(UsageError, match=expected):
        parse_args(words)


def test_a_path_that_will_not_be_walked_takes_no_updates():
    assert parse_args([*NEEDED, *LONG_PATH]).max_train_steps == 20
    assert parse_args([*NEEDED, "--no_backtracking", "--node_switching", "fixed", *LONG_PATH]).max_train_steps == 20


def test_the_token_is_not_kept():
    assert "secret" not in str(parse_args([*NEEDED, "--hub_token", "secret"]).settings())
