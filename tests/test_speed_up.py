# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The arithmetic behind docs/results.md."""

import pytest

from benchmarks.speed_up import plot, speed_ups, table


BASE = {"updates": [0, 100, 200, 300], "seconds": [0, 1, 2, 3], "distance": [9, 5, 3, 2]}
SOONER = {"updates": [0, 100, 200, 300], "seconds": [1, 2, 3, 4], "distance": [9, 2, 1.5, 1]}
NEVER = {"updates": [0, 100, 200, 300], "seconds": [1, 2, 3, 4], "distance": [9, 8, 7, 6]}
BUMPY = {"updates": [0, 100, 200, 300], "seconds": [0, 1, 2, 3], "distance": [9, 5, 1, 2]}


@pytest.mark.parametrize("axis, expected", [("updates", [3.0, 0.0]), ("seconds", [1.5, 0.0])])
def test_speed_up_is_to_where_the_baseline_ends(axis, expected):
    assert speed_ups([SOONER, NEVER], [BASE, BASE], axis) == expected


def test_a_baseline_that_was_there_before_its_end_counts_from_then():
    assert speed_ups([SOONER], [BUMPY], "updates") == [2.0]


def test_table_and_picture():
    runs = {"ours": [SOONER, SOONER, NEVER], "baseline": [BASE] * 3}
    lines = table(runs, "baseline")
    assert lines[2] == "| ours | 1.000 (1.000 to 6.000) | 3.00 (0.00 to 3.00) | 1.50 (0.00 to 1.50) |"
    figure = plot(runs, "Task", "distance")
    assert [axes.get_xlabel() for axes in figure.axes] == ["updates", "seconds"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [9, 2, 1.5, 1]
