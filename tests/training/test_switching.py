# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
from dataclasses import asdict
from pathlib import Path

import pytest

from disback_diffusers.errors import UsageError
from disback_diffusers.training.path import DegradationPath, Node
from disback_diffusers.training.switching import NodeWalk, targets


def make_path(*student_losses):
    return DegradationPath(Path("p"), "base", nodes=[Node(i, student_loss=s) for i, s in enumerate(student_losses)])


def test_each_node_lasts_its_number_and_the_teacher_for_ever():
    walk, nodes = NodeWalk([2, 1, 0], 3), []
    for _ in range(12):
        nodes.append(walk.node)
        before = walk.node
        assert walk.advance() == (walk.node != before)
    assert nodes == [2] * 3 + [1] * 3 + [0] * 6


def test_a_walk_goes_on_from_its_state():
    whole, first = NodeWalk([2, 1, 0], 3), NodeWalk([2, 1, 0], 3)
    for _ in range(4):
        whole.advance(), first.advance()
    second = NodeWalk(**asdict(first))
    for _ in range(5):
        whole.advance(), second.advance()
        assert (whole.node, whole.node_step) == (second.node, second.node_step)


def test_the_teacher_s_error_is_a_root_mean_square():
    assert make_path(6.25, 1.25, 0.5).teacher_error() == 2.5
    for missing in (None, float("nan"), "0.5"):
        with pytest.raises(UsageError, match="student_loss.*adaptive"):
            make_path(missing, 1.0, 0.5).teacher_error()


def test_fixed_takes_all_but_the_last_and_without_a_path_the_teacher_alone():
    assert targets(5) == [3, 2, 1, 0]
    assert targets(1) == targets(2) == [0]


def test_adaptive_walks_the_path_only_where_the_teacher_cannot_be_trusted():
    assert targets(5, 2.1) == [3, 2, 1, 0]
    assert targets(5, 1.9) == targets(5, 0.0) == [0]
