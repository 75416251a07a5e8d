# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from disback_diffusers.errors import UsageError
from disback_diffusers.training.path import UNTRAINED, DegradationPath
from disback_diffusers.training.switching import NodeWalk, count_stays, described, variation


def make_path(*untrained, **settings):
    untrained = dict(zip(UNTRAINED, untrained)) or None
    return DegradationPath(Path("p"), "base", settings, untrained=untrained)


def test_each_node_lasts_its_number_and_the_teacher_for_ever():
    walk, nodes = NodeWalk([2, 1, 0], 3), []
    for _ in range(12):
        nodes.append(walk.node)
        before = walk.node
        assert walk.at_teacher == (walk.node == 0)
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


def test_adaptive_walks_from_a_student_that_knows_nothing_and_varies_less_than_the_teacher():
    assert make_path(1.0, 0.1, 0.9, 1.0).should_walk()[0]
    walks, why = make_path(1.0, 0.1, 1.125, 1.0).should_walk()
    assert not walks and "by 1.12, the teacher's by 1 " in why


@pytest.mark.parametrize(
    "error, teacher, walks",
    [
        (0.8, 0.1, False),
        (0.92, 0.1, True),
        (0.92, 0.9, False),  # where the noise leaves little to know, the teacher knows little too
        (0.92, 0.92, False),  # the teacher's weights
        (1.1, 1.1, False),
        (1.0078, 1.0076, False),  # the same weights in another precision
        (1.2, 1.1, True),
    ],
)
def test_what_a_network_has_learned_is_compared_with_the_teacher(error, teacher, walks):
    walked, why = make_path(error, teacher, 0.9, 1.0).should_walk()
    assert walked == walks
    assert walks or ("teacher itself cannot" if teacher > 1 else "network can denoise already") in why


@pytest.mark.parametrize("values", [(1.0, 0.1, 0.9), (1.0, 0.1, float("nan"), 1.0), (None, 0.1, 0.9, 1.0)])
def test_adaptive_cannot_do_without_what_decides(values):
    with pytest.raises(UsageError, match="untrained.*adaptive.*fixed"):
        make_path(*values).should_walk()
    for start in ("student_unet", "lcm_lora"):
        with pytest.raises(UsageError, match="untrained.*adaptive.*fixed"):
            make_path(**{start: "fingerprint"}).should_walk()
    assert make_path().should_walk() == (False, "the student started with the teacher's weights")  # an older path


def test_variation_is_over_the_noise_of_one_prompt():
    """Two prompts far from each other, of standard deviations 0.5 and 1."""
    noise = torch.randn(1, 4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = torch.cat([100 + 0.5 * noise, noise.flip(1) - 100])
    assert variation(samples) == pytest.approx((0.625) ** 0.5, rel=0.01)
    assert variation(torch.tensor([[1.0, 3.0]])) == pytest.approx(2**0.5)  # two samples: n - 1


@pytest.mark.parametrize("nodes, numbers", [(5, [3, 2, 1, 0]), (3, [1, 0]), (2, [0]), (1, [0])])
def test_a_walk_takes_all_nodes_but_the_last(nodes, numbers):
    walk = NodeWalk.back_from(nodes, 7)
    assert (walk.numbers, walk.steps_per_node) == (numbers, 7)
    assert walk.walks_path == (len(numbers) > 1) and count_stays(nodes) == len(numbers) - 1


def test_each_node_may_have_its_own_stay():
    walk, nodes = NodeWalk.back_from(5, [1, 3, 2]), []
    for _ in range(8):
        nodes.append(walk.node)
        walk.advance()
    assert nodes == [3, 2, 2, 2, 1, 1, 0, 0]
    assert described(walk.updates) == "1 + 3 + 2" and described([100] * 3) == "3 x 100"


def test_without_a_walk_the_teacher_is_the_only_target():
    walk = NodeWalk.teacher_only()
    assert (walk.node, walk.walks_path, walk.advance(), walk.node) == (0, False, False, 0)
