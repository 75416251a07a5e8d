# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which path a run has, and where its fake score starts."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from disback_diffusers.training.path import UNTRAINED, DegradationPath
from disback_diffusers.training.run_folder import RunFolder


def start(make_context, tmp_path, **settings):
    """(the context, the path) after stage 1."""
    context, folder = make_context(**settings), RunFolder(tmp_path / "run")
    folder.open(context.args.settings())
    try:
        return context, context.distillation(context.trainer(folder)).stage_1(checkpoint=None)
    finally:
        folder.close()


def node(context, i):
    DegradationPath.load(context.args.run.output_dir).load_into(context.roles, i)
    return {key: value.clone() for key, value in context.roles.state_dict("target").items()}


def fake(context):
    return context.roles.state_dict("fake")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def is_teacher(context):
    return not any(value.any() for key, value in fake(context).items() if "lora_B" in key)


@pytest.mark.slow
@pytest.mark.parametrize("spacing, expected", [("geometric", [0, 2, 4, 8]), ("uniform", [0, 3, 5, 8])])
def test_by_default_the_fake_score_starts_at_the_last_node(make_context, tmp_path, spacing, expected):
    context, path = start(make_context, tmp_path, node_spacing=spacing)
    assert [n.step for n in path.nodes] == expected
    assert same(fake(context), node(context, 3)) and not same(fake(context), node(context, 2))


@pytest.mark.slow
def test_it_may_start_as_the_teacher_with_a_path(make_context, tmp_path):
    context, path = start(make_context, tmp_path, fake_score_init="teacher")
    assert len(path) == 4 and is_teacher(context)


@pytest.mark.slow
def test_of_a_path_that_is_not_walked_only_its_end_is_recorded(make_context, tmp_path):
    context, path = start(make_context, tmp_path, node_switching="adaptive")  # a student with the teacher's weights
    assert path.untrained["error"] == path.untrained["teacher_error"]
    assert [n.step for n in path.nodes] == [0, 8] and same(fake(context), node(context, 1))


@pytest.mark.slow
def test_adaptive_decides_by_how_it_starts(make_context, tmp_path, small_unet):
    """These random weights are farther off than the teacher's, and their samples vary less."""
    unet = UNet2DConditionModel.from_pretrained(small_unet)
    unet.conv_out.weight.data *= 3
    unet.save_pretrained(tmp_path / "wild")
    settings = {"student": "full", "student_unet": str(tmp_path / "wild"), "node_switching": "adaptive"}
    context, path = start(make_context, tmp_path, **settings)
    assert path.untrained["error"] > 1.05 * path.untrained["teacher_error"]
    assert path.untrained["variation"] < path.untrained["teacher_variation"]
    assert [n.step for n in path.nodes] == [0, 2, 4, 8]
    assert context.distillation(None).walk(path).numbers == [2, 1, 0]


@pytest.mark.slow
def test_how_the_student_started_is_kept_where_it_decides(make_context, tmp_path, small_unet):
    context, path = start(make_context, tmp_path, student="full", student_unet=str(small_unet))
    assert tuple(path.untrained) == UNTRAINED and all(value > 0 for value in path.untrained.values())
    assert path.settings["student_unet"] == context.sources.student.fingerprint(context.student)
    assert DegradationPath.load(tmp_path / "run").untrained == path.untrained


@pytest.mark.slow
def test_elsewhere_it_is_left_out(make_context, tmp_path):
    _, path = start(make_context, tmp_path, student="full")
    assert path.untrained is None and path.settings["student_unet"] is None


def test_without_backtracking_nothing_is_recorded(make_context, tmp_path):
    context, path = start(make_context, tmp_path, no_backtracking=True)
    assert path is None and is_teacher(context) and not (tmp_path / "run" / "degradation").exists()
    assert context.distillation(None).walk(path).numbers == [0]


@pytest.mark.slow
def test_without_backtracking_it_can_be_fitted(make_context, tmp_path):
    """To the untrained student's images, as the last node would be."""
    context, path = start(make_context, tmp_path, no_backtracking=True, fake_score_init="fit")
    assert [n.step for n in path.nodes] == [0, 8]
    assert same(fake(context), node(context, 1)) and not is_teacher(context)


def test_it_can_be_random(make_context, tmp_path):
    context, path = start(make_context, tmp_path, no_backtracking=True, fake_score_init="random")
    assert path is None and not is_teacher(context)


@pytest.mark.slow
def test_a_given_path_is_taken(make_context, tmp_path):
    start(make_context, tmp_path, seed=3)
    (tmp_path / "run" / "degradation").rename(tmp_path / "path")
    context, path = start(make_context, tmp_path, degradation_path=str(tmp_path / "path"))
    assert not (tmp_path / "run" / "degradation").exists() and path.settings["seed"] == 3
    path.load_into(context.roles, 3)
    assert same(fake(context), context.roles.state_dict("target"))


@pytest.mark.slow
@pytest.mark.parametrize("stay, expected", [("auto", 5), (2, 2)])
def test_a_path_is_walked_in_stays_of_one_length(make_context, tmp_path, stay, expected):
    context, path = start(make_context, tmp_path, steps_per_node=stay, max_train_steps=20)
    walk = context.distillation(None).walk(path)
    assert (walk.numbers, walk.steps_per_node) == ([2, 1, 0], expected)
