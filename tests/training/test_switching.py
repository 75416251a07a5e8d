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


def test_distances_are_what_the_error_exceeds_the_last_node_s_by():
    assert make_path(9.25, 1.25, 0.5, 0.25, 0.25).distances() == [3, 1, 0.5, 0, 0]
    assert make_path(1.0, 0.2, 0.25).distances()[1] == 0  # a node that happens to be better than the last
    assert make_path(10.0, 5.0).distances() == [3, 2]  # stage 1 has not come to the student's score: that errs less
    for missing in (None, float("nan"), "0.5"):
        with pytest.raises(UsageError, match="student_loss.*adaptive"):
            make_path(1.0, missing, 0.5).distances()


def test_fixed_takes_all_but_the_last_and_without_a_path_the_teacher_alone():
    assert targets(5) == [3, 2, 1, 0]
    assert targets(1) == targets(2) == [0]


def test_adaptive_walks_the_path_only_where_the_teacher_cannot_be_trusted():
    assert targets(5, [1.1, 0.9, 0.5, 0.1, 0.0]) == [3, 2, 1, 0]
    assert targets(5, [0.9, 0.8, 0.5, 0.1, 0.0]) == [0]
