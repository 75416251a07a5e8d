# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which path a run has, and where its fake score starts."""

import pytest
import torch

from disback_diffusers.training.distill import stage_1
from disback_diffusers.training.path import DegradationPath
from disback_diffusers.training.run_folder import RunFolder
from disback_diffusers.training.trainer import Trainer


def start(make_context, tmp_path, **settings):
    """(the context, the path) after stage 1."""
    context, folder = make_context(**settings), RunFolder(tmp_path / "run")
    folder.open(context.args.settings())
    try:
        return context, stage_1(context, folder, Trainer(context, folder, validator=None), checkpoint=None)
    finally:
        folder.close()


def node(context, i):
    DegradationPath.load(context.args.output_dir).load_into(context.roles, i)
    return {key: value.clone() for key, value in context.roles.state_dict("target").items()}


def fake(context):
    return context.roles.state_dict("fake")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def is_teacher(context):
    return not any(value.any() for key, value in fake(context).items() if "lora_B" in key)


@pytest.mark.parametrize("spacing, expected", [("geometric", [0, 2, 4, 8]), ("uniform", [0, 3, 5, 8])])
def test_by_default_the_fake_score_starts_at_the_last_node(make_context, tmp_path, spacing, expected):
    context, path = start(make_context, tmp_path, node_spacing=spacing)
    assert [n.step for n in path.nodes] == expected
    assert same(fake(context), node(context, 3)) and not same(fake(context), node(context, 2))


def test_it_may_start_as_the_teacher_with_a_path(make_context, tmp_path):
    context, path = start(make_context, tmp_path, fake_score_init="teacher")
    assert len(path) == 4 and is_teacher(context)


def test_without_backtracking_nothing_is_recorded(make_context, tmp_path):
    context, path = start(make_context, tmp_path, no_backtracking=True)
    assert path is None and is_teacher(context) and not (tmp_path / "run" / "degradation").exists()


def test_without_backtracking_it_can_be_fitted(make_context, tmp_path):
    """To the untrained student's images, as the last node would be."""
    context, path = start(make_context, tmp_path, no_backtracking=True, fake_score_init="fit")
    assert [n.step for n in path.nodes] == [0, 8]
    assert same(fake(context), node(context, 1)) and not is_teacher(context)


def test_it_can_be_random(make_context, tmp_path):
    context, path = start(make_context, tmp_path, no_backtracking=True, fake_score_init="random")
    assert path is None and not is_teacher(context)


def test_a_given_path_is_taken(make_context, tmp_path):
    start(make_context, tmp_path, seed=3)
    (tmp_path / "run" / "degradation").rename(tmp_path / "path")
    context, path = start(make_context, tmp_path, degradation_path=str(tmp_path / "path"))
    assert not (tmp_path / "run" / "degradation").exists() and path.settings["seed"] == 3
    path.load_into(context.roles, 3)
    assert same(fake(context), context.roles.state_dict("target"))
