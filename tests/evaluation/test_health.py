# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json
import math
from pathlib import Path

import pytest
import torch

from disback_diffusers.evaluation.health import Monitor, clipped, grid_power


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def watched(values, name="score_ratio", total=100, every=10):
    """The step of each alarm, and the alarms at the end, of values at every tenth update."""
    monitor, found = Monitor(total), []
    for number, value in enumerate(values, 1):
        monitor.add({name: value})
        found += [(number * every, line) for line in monitor.measure(number * every)]
    return found, monitor.alarms


def test_an_alarm_is_raised_when_the_range_is_left_for_long():
    found, alarms = watched([0.9, 1.2, 1.2, 0.9, 1.2, 1.2, 1.3, 1.3])
    (step, line), *more = found
    assert step == 70 and not more and alarms == ["score_ratio"]
    assert line == (
        "Alarm at update 70: score_ratio is 1.3, usual is 0.2 to 1: the fake score fits the samples no better than "
        "the target: raise --fake_score_learning_rate or --fake_score_updates_per_step."
    )


def test_it_ends_with_the_first_value_in_the_range_and_can_come_again():
    found, alarms = watched([0.9, 1.2, 1.2, 1.2, 0.9, 1.2, 1.2, 1.2])
    assert [step for step, _ in found] == [40, 80] and alarms == ["score_ratio"]
    assert watched([0.9, 1.2, 1.2, 1.2, 0.9])[1] == []


def test_a_range_that_was_never_entered_counts_from_half_of_the_training():
    assert [step for step, _ in watched([1.2] * 10)[0]] == [70]
    assert watched([1.2] * 4 + [0.9] * 6) == ([], [])


def test_means_between_two_measurements_count():
    monitor = Monitor(10)
    for step in (1, 2, 3, 4):
        for value in (0.8, 1.1):  # 0.95 on average
            monitor.add({"score_ratio": value, "loss_fake": 5.0})
        assert monitor.measure(step) == []
    assert monitor.outside == {"score_ratio": 0}


@pytest.mark.parametrize(
    "name, value, usual",
    [
        ("diversity", 0.2, "0.3 to 2.5: samples of one prompt vary far less"),
        ("diversity", 4.2, "0.3 to 2.5: samples of one prompt vary far more"),
        ("saturation", 0.2, "at most 0.1: far more of the image is clipped"),
        ("contrast", 0.78, "0.85 to 1.3: the samples have a smaller"),
        ("contrast", 1.7, "0.85 to 1.3: the samples have a larger"),
        ("grid", 3.5, "at most 3: the images have the texture"),
        ("score_ratio", 0.1, "0.2 to 1: the target pulls"),
        ("score_ratio", 1.2, "0.2 to 1: the fake score fits"),
    ],
)
def test_every_metric_has_its_range(name, value, usual):
    (_, line), *_ = watched([value] * 10, name)[0]
    assert f"{name} is {value}, usual is {usual}" in line


def test_measured_runs_are_told_apart():
    """Five healthy trainings and three that were broken on purpose, as benchmarks/alarms.py has recorded them."""
    runs = json.loads((RESULTS / "alarms_demo.json").read_text())["runs"]
    assert len(runs) == 8
    for name, found in runs.items():
        monitor, alarms = Monitor(found["rows"][-1]["step"]), set()
        for row in found["rows"]:
            monitor.add({key: value for key, value in row.items() if value is not None})
            monitor.measure(row["step"])
            alarms |= set(monitor.alarms)
        assert bool(alarms) == (not name.startswith("healthy")), (name, alarms)


def test_clipped_values():
    images = torch.tensor([0.0, 0.5, 1.0, 0.999]).view(1, 1, 2, 2).expand(2, 3, 2, 2)
    assert clipped(images) == 0.5


@pytest.mark.parametrize("axis", [2, 3])
def test_a_grid_has_power_at_its_frequencies(axis):
    noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert grid_power(noise, 8) == pytest.approx(1, abs=0.3)
    shape = [1, 1, 1, 1]
    shape[axis] = 64
    grid = (torch.arange(64) % 8 == 0).double().view(shape)
    assert grid_power(noise + 2 * grid, 8) > 5
    assert grid_power(noise + 2 * (torch.arange(64) % 11 == 0).double().view(shape), 8) < 1.5
    assert math.isfinite(grid_power(torch.zeros(1, 3, 16, 16), 4))
