# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import random

from disback_diffusers.training.switching import NodeSwitch


def steps_until_left(switch, gaps):
    return next((i for i, gap in enumerate(gaps, 1) if switch.leave(gap)), None)


def test_fixed_leaves_after_its_number_each_time():
    switch = NodeSwitch(5)
    assert [switch.leave(1.0) for _ in range(10)] == [False] * 4 + [True] + [False] * 4 + [True]


def test_adaptive_stays_while_the_gap_falls_and_leaves_when_it_has_stopped():
    noise = random.Random(0)
    falling = [1 / (1 + 0.05 * i) + noise.gauss(0, 0.02) for i in range(100)]
    flat = [falling[-1] + noise.gauss(0, 0.02) for _ in range(200)]
    left = steps_until_left(NodeSwitch(1000, adaptive=True), falling + flat)
    assert 100 < left < 200
    assert steps_until_left(NodeSwitch(30, adaptive=True), falling + flat) == 30  # the fixed number is the upper bound
    assert steps_until_left(NodeSwitch(1000), falling + flat) is None


def test_one_lucky_gap_does_not_count_as_the_lowest():
    falling = [1 - 0.005 * i for i in range(150)]
    falling[60] = 0.1
    assert steps_until_left(NodeSwitch(1000, adaptive=True), falling) is None


def test_state_carries_the_decision_over():
    gaps = [1 / (1 + 0.1 * min(i, 30)) for i in range(200)]
    whole, first, second = (NodeSwitch(1000, adaptive=True) for _ in range(3))
    expected = steps_until_left(whole, gaps)
    assert all(not first.leave(gap) for gap in gaps[:20])
    second.load_state_dict(first.state_dict())
    assert steps_until_left(second, gaps[20:]) == expected - 20
