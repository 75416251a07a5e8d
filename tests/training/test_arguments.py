# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from disback_diffusers import distill
from disback_diffusers.errors import UsageError
from disback_diffusers.training.arguments import GROUPS, DistillationArguments, check_limits
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.flags import flag
from disback_diffusers.training.settings import GAN


NEEDED = ["--pretrained_teacher_model", "x", "--prompt_dataset", "y"]
LONG_PATH = "--steps_per_node 10 --degradation_nodes 3 --max_train_steps 20".split()
PRESETS = sorted((Path(__file__).parents[2] / "train_scripts" / "presets").glob("*.yaml"))
FIELDS = {field.name: field for group in GROUPS for field in fields(group)}


def make_args(**settings):
    return DistillationArguments(**{"pretrained_teacher_model": "x", "prompt_dataset": "y", **settings})


# ---------------------------------------------------------------------------------------------------------------------
# In Python


def test_a_setting_is_found_in_its_group_and_by_its_name():
    args = make_args(lora_rank=32, seed=3)
    assert (args.student.lora_rank, args["lora_rank"], args.system.seed, args["seed"]) == (32, 32, 3, 3)
    args.student.lora_rank = 16
    assert args["lora_rank"] == args.settings()["lora_rank"] == 16
    assert set(FIELDS) == set(args.settings()) | {"hub_token"}
    assert all(args[name] == value for name, value in args.settings().items())


@pytest.mark.parametrize(
    "name, value, taken",
    [
        ("learning_rate", 1, 1.0),
        ("learning_rate", np.float32(0.5), 0.5),
        ("lora_rank", np.int64(4), 4),
        ("output_dir", Path("a/folder"), "a/folder"),
        ("mixed_precision", None, None),
        ("resolution", 32, ["32"]),
        ("resolution", ("32", "48x32"), ["32", "48x32"]),
        ("lora_target_modules", "attention", ["attention"]),
        ("steps_per_node", 7, 7),
    ],
)
def test_values_from_python_are_those_of_the_command_line(name, value, taken):
    found = make_args(**{name: value})[name]
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("max_train_steps", "6", "a whole number, not '6'"),
        ("max_train_steps", 6.5, "a whole number, not 6.5"),
        ("degradation_nodes", True, "a whole number, not True"),
        ("lora_rank", None, "a whole number, not None"),
        ("learning_rate", "fast", "a number, not 'fast'"),
        ("student", "Lora", "lora or full, not 'Lora'"),
        ("mixed_precision", "bf8", "no, fp16 or bf16, not 'bf8'"),
        ("push_to_hub", "yes", "True or False, not 'yes'"),
        ("prompt_dataset", ["a cat"], r"a string, not \['a cat'\]"),
        ("validation_prompts", [None], r"a list of strings, not \[None\]"),
        ("validation_prompts", {"a cat": 1}, "a list of strings, not {'a cat': 1}"),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, expected):
    with pytest.raises(UsageError, match=f"^--{name} must be {expected}"):
        make_args(**{name: value})


@pytest.mark.parametrize("name", ["lora_rnak", "student_", "teacher"])
def test_an_unknown_setting_is_a_type_error(name):
    with pytest.raises(TypeError, match=f"no setting '{name}'"):
        make_args(**{name: 1})


def test_lists_are_not_shared():
    make_args().run.report_to.append("wandb")
    assert make_args().run.report_to == []


# ---------------------------------------------------------------------------------------------------------------------
# Limits


def limits(field):
    return tuple(field.metadata[name] for name in ("above", "at_least", "below"))


NUMBERS = [field for field in FIELDS.values() if field.type in (int, float, int | None, float | None)]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_numbers_outside_of_their_limits_are_refused(field):
    above, at_least, below = limits(field)
    assert (above is None) != (at_least is None)  # each number has a lower limit
    outside = [above if at_least is None else at_least - 1, math.nan, math.inf, -math.inf]
    for value in [*outside, *([] if below is None else [below])]:
        with pytest.raises(UsageError, match=rf"^--{field.name} must be .*{value}(\.0)?\.$"):
            make_args(**{field.name: value})


@pytest.mark.parametrize(
    "field", [field for field in NUMBERS if limits(field)[1] is not None], ids=lambda field: field.name
)
def test_the_lower_limit_itself_is_allowed(field):
    at_least, (objective, *_) = field.metadata["at_least"], field.metadata["objectives"] or ("dmd",)
    args = make_args(**{field.name: at_least}, objective=objective, real_images="folder" if objective in GAN else None)
    assert args[field.name] == at_least


def test_a_limit_is_what_the_field_says():
    field = flag(1.0, "", at_least=-2, below=3)
    field.name = "x"
    for value in (-2, 2.999, None):
        check_limits(field, value)
    for value in (-2.001, 3):
        with pytest.raises(UsageError, match="--x must be -2 or greater, and below 3, not"):
            check_limits(field, value)
    above = flag(1.0, "", above=0.5)
    above.name = "y"
    check_limits(above, 0.501)
    with pytest.raises(UsageError, match="--y must be a number greater than 0.5, not 0.5"):
        check_limits(above, 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# Stays


@pytest.mark.parametrize("steps, stays, expected", [(10_000, 6, 83), (10_000, 1, 500), (200, 6, 5), (31, 6, 5)])
def test_by_default_stays_take_5_percent_together_and_5_updates_each_at_least(steps, stays, expected):
    assert make_args(max_train_steps=steps).steps_per_stay(stays) == expected


def test_a_number_of_updates_is_taken_as_it_is():
    args = make_args(steps_per_node="40", max_train_steps=1000)
    assert args.path.steps_per_node == 40 and args.steps_per_stay(6) == args.steps_per_stay(2) == 40


@pytest.mark.parametrize("stay, stays, given", [("auto", 6, "auto: at least 5"), (5, 6, "5"), (30, 1, "30")])
def test_stays_that_leave_nothing_for_the_teacher_are_refused(stay, stays, given):
    settings = {"steps_per_node": stay, "no_backtracking": True}  # so that the default path is not checked
    make_args(max_train_steps=31, **settings).steps_per_stay(stays)
    args = make_args(max_train_steps=30, **settings)
    with pytest.raises(UsageError, match=rf"takes {stays} x {30 // stays} updates \(--steps_per_node {given}\)\."):
        args.steps_per_stay(stays)
    assert args.steps_per_stay(0) > 0  # without a node there is no stay


@pytest.mark.parametrize("value", [0, -1, "-1", "", "often", "1.5", 1.5, "²", True, "10 20", "1 0,20"])
def test_a_length_of_stays_that_is_none(value):
    with pytest.raises(UsageError, match="--steps_per_node must be auto or a number greater than 0"):
        make_args(steps_per_node=value)


# ---------------------------------------------------------------------------------------------------------------------
# On the command line and in files


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "lora_rank: 8\nlearning_rate: 1e-3\nno_backtracking: true\nreport_to: [tensorboard]\nvariant: null\n"
    )
    args = parse_args([*NEEDED, "--config", str(file), "--lora_rank", "16"])
    assert (args.student.lora_rank, args.optimization.learning_rate) == (16, 1e-3)
    assert args.path.no_backtracking and args.run.report_to == ["tensorboard"]
    assert args.student.lora_alpha == 16 and args.objective.fake_score_init == "teacher"
    assert args.teacher.variant is None


@pytest.mark.parametrize("flag, other", [("ema_decay", "ema_half_life"), ("ema_half_life", "ema_decay")])
def test_the_command_line_replaces_the_other_kind_of_average_in_the_file(tmp_path, flag, other):
    values, file = {"ema_decay": 0.5, "ema_half_life": 90}, tmp_path / "settings.yaml"
    file.write_text(f"{other}: {values[other]}\n")
    args = parse_args([*NEEDED, "--config", str(file), f"--{flag}={values[flag]}"])
    assert (args[flag], args[other]) == (values[flag], args.defaults()[other])
    with pytest.raises(UsageError, match="leave one of them out"):
        parse_args([*NEEDED, "--config", str(file), f"--{flag}={values[flag]}", f"--{other}={values[other]}"])


def test_every_setting_survives_the_file_that_a_run_leaves(tmp_path):
    args = parse_args([*NEEDED, "--student", "full", "--validation_prompts", "a cat", "two: dogs", "--compile"])
    file = tmp_path / "arguments.yaml"
    file.write_text(yaml.safe_dump(args.settings()))
    assert parse_args(["--config", str(file)]).settings() == args.settings()


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in FIELDS if f"--{name}" not in shown] == []


def test_no_tracker():
    assert parse_args([*NEEDED, "--report_to", "none"]).run.report_to == []


def test_what_yaml_takes_for_false(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("mixed_precision: no\ncache_text_embeddings: off\n")
    args = parse_args([*NEEDED, "--config", str(file)])
    assert (args.system.mixed_precision, args.data.cache_text_embeddings) == ("no", "off")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    words = [] if "pretrained_teacher_model" in preset.read_text() else NEEDED[:2]
    args = parse_args(["--config", str(preset), "--prompt_dataset", "y", *words])
    assert args.teacher.pretrained_teacher_model and args.run.checkpoints_total_limit


@pytest.mark.parametrize("name, kind", [("one_gpu", "NO"), ("multi_gpu", "MULTI_GPU")])
def test_configs_for_accelerate(name, kind):
    config = load_config_from_file(str(PRESETS[0].parents[1] / "accelerate_configs" / f"{name}.yaml"))
    assert (config.distributed_type.value, config.mixed_precision) == (kind, "bf16")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--prompt_dataset", "y"], "--pretrained_teacher_model"),
        ([*NEEDED, "--degradation_nodes", "9", "--degradation_steps", "8"], "--degradation_nodes 9"),
        ([*NEEDED, *LONG_PATH], "true teacher"),
        ([*NEEDED, "--node_switching", "fixed", *LONG_PATH], "true teacher"),
        ([*NEEDED, "--node_switching", "adaptive", *LONG_PATH], "true teacher"),
        ([*NEEDED, "--no_backtracking", "--fake_score_init", "node"], "--fake_score_init"),
        ([*NEEDED, "--no_backtracking", "--degradation_path", "p"], "--degradation_path"),
        ([*NEEDED, "--report_to", "wandb", "--hub_token", "t"], "--hub_token"),
        ([*NEEDED, "--ema_decay", "1"], "--ema_decay"),
        (
            [*NEEDED, "--class_labels", "1", "2"],
            "'2' is one value too many: quote text with spaces",
        ),
        ([*NEEDED, "--ema_half_life", "0"], "--ema_half_life must be a number greater than 0"),
        ([*NEEDED, "--ema_decay", "0.5", "--ema_half_life", "9"], "instead of --ema_decay: leave one of them out"),
        ([*NEEDED, "--lcm_lora", "l", "--student", "full"], "--student full"),
        ([*NEEDED, "--student_unet", "u", "--lcm_lora", "l"], "--lcm_lora and --student_unet are both"),
        ([*NEEDED, "--log_fd_every", "5"], "--fd_reference"),
        ([*NEEDED, "--output_dir", ""], "--output_dir must be the name of a folder"),
        ([*NEEDED, "--fd_reference", "embedded"], "--fd_reference has no effect without --log_fd_every"),
        ([*NEEDED, "--fd_images", "9"], "--fd_images has no effect without --log_fd_every"),
        (
            [*NEEDED, "--log_fd_every", "5", "--fd_reference", "r", "--fd_images", "1"],
            "--fd_images must be .*above|greater",
        ),
        ([*NEEDED, "--hub_model_id", "me/model"], "--hub_model_id has no effect without --push_to_hub"),
        ([*NEEDED, "--push_degradation_path"], "--push_degradation_path has no effect without --push_to_hub"),
        ([*NEEDED, "--lr_warmup_steps", "9"], "--lr_warmup_steps has no effect with --lr_scheduler constant"),
        (
            [*NEEDED, "--steps_per_node", "9", *LONG_PATH],
            "Take more steps, a smaller --steps_per_node, fewer --degradation_nodes, or --no_backtracking",
        ),
        ([*NEEDED, "--proportion_later_steps", "0.5"], "--lcm_lora"),
    ],
)
def test_combinations_that_cannot_work(words, expected):
    with pytest.raises(UsageError, match=expected):
        parse_args(words)


def test_a_path_that_will_not_be_walked_takes_no_updates():
    assert parse_args([*NEEDED, "--no_backtracking", *LONG_PATH]).optimization.max_train_steps == 20


def test_each_node_may_have_its_own_updates():
    words = [*NEEDED, "--degradation_nodes", "4", "--max_train_steps", "60"]
    for given in ("5,10,20", "5, 10, 20"):
        assert parse_args([*words, "--steps_per_node", given]).steps_per_stay(3) == [5, 10, 20]
    args = DistillationArguments(pretrained_teacher_model="t", degradation_nodes=4, steps_per_node=[5, 10, 20])
    assert args.steps_per_stay(3) == [5, 10, 20] and args.settings()["steps_per_node"] == "5,10,20"
    for given, expected in (
        ("5,10", "--steps_per_node 5,10 has 2 numbers, but the path has 3 target nodes"),
        ("5,10,45", "leaves no step for the true teacher: the path takes 60 updates"),
        ("5,,10", "--steps_per_node must be auto or a number greater than 0"),
        ("5,0,10", "--steps_per_node must be auto or a number greater than 0"),
    ):
        with pytest.raises(UsageError, match=expected):
            parse_args([*words, "--steps_per_node", given])


def test_optimizers():
    for words, expected in (
        ([], ("adamw", "adamw")),
        (["--optimizer", "adam"], ("adam", "adam")),
        (["--optimizer", "sgd"], ("sgd", "adamw")),
        (["--optimizer", "sgd", "--fake_score_optimizer", "sgd"], ("sgd", "sgd")),
    ):
        settings = parse_args([*NEEDED, *words]).optimization
        assert (settings.optimizer, settings.fake_optimizer) == expected
    with pytest.raises(UsageError, match="--use_8bit_adam needs --optimizer adamw for both"):
        parse_args([*NEEDED, "--optimizer", "sgd", "--use_8bit_adam"])
    with pytest.raises(UsageError, match="--adam_beta1 has no effect with --optimizer sgd for both"):
        parse_args([*NEEDED, "--optimizer", "sgd", "--fake_score_optimizer", "sgd", "--adam_beta1", "0.5"])


def test_stays_have_one_spelling():
    assert parse_args([*NEEDED, "--steps_per_node", "1, 2,3, 4, 5, 6"]).path.steps_per_node == "1,2,3,4,5,6"


def test_a_recorded_path_has_its_own_length_and_nodes():
    words = [*NEEDED, "--degradation_path", "p", "--degradation_steps", "4", "--max_train_steps", "20"]
    assert parse_args(words).path.degradation_nodes == 7


def test_the_token_is_not_kept_and_not_printed():
    args = parse_args([*NEEDED, "--hub_token", "secret"])
    assert "secret" not in str(args.settings()) and "secret" not in repr(args)


@pytest.mark.parametrize(
    "group, name, value, expected",
    [
        ("path", "no_backtracking", True, "--fake_score_init node needs a path"),
        ("path", "steps_per_node", "two", "--steps_per_node must be auto or a number"),
        ("optimization", "max_train_steps", 3, "--max_train_steps 3 leaves no step"),
        ("student", "lora_rank", 0, "--lora_rank must be a number greater than 0"),
        ("student", "lora_rank", "four", "--lora_rank must be a whole number"),
    ],
)
def test_settings_that_are_changed_later_are_checked_by_distill(group, name, value, expected):
    args = parse_args(NEEDED)
    setattr(getattr(args, group), name, value)
    with pytest.raises(UsageError, match=expected):
        distill(args)
