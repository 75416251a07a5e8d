# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What two real processes find together, see two_processes.py."""

import json
from pathlib import Path

import pytest
import torch
from script_runs import start_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of the two processes of two_processes.py found, and the folder they wrote to."""
    folder = tmp_path_factory.mktemp("pair")
    runs = start_pair([str(folder)], script=Path(__file__).with_name("two_processes.py"))
    for run in runs:
        assert run.wait() == 0, run.output
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert [each["rank"] for each in found] == [(0, 2, True), (1, 2, False)]
    return *found, folder


def test_gradients_are_averaged_and_a_missing_one_counts_as_zero(pair):
    *found, _ = pair
    expected = [[1.0, 1.0], [6.0], [[11.0], [11.0], [11.0]], None, [0.0], [51.0] * 5, [61.0, 61.0]]
    for each in found:
        assert [gradient if gradient is None else gradient.tolist() for gradient in each["averaged"]] == expected
        assert each["mean"].tolist() == [1, 2]


def test_both_have_all_rows_and_each_makes_its_share_of_calls(pair):
    *found, _ = pair
    for rank, each in enumerate(found):
        for (n, size), (rows, calls) in each["mapped"].items():
            assert rows.tolist() == [[i, -i] for i in range(n)]
            assert max(map(len, calls)) <= size
            assert sum(calls, []) == [(rank + 2 * k) % n for k in range((n + 1) // 2)]


def test_a_signal_in_one_stops_both_at_the_next_logged_step(pair):
    *found, folder = pair
    for each in found:
        assert each["signal"]["error"].startswith("Interrupted: Stopped at degradation step 4; ")
        assert each["signal"]["step"] == 4
        assert each["signal"]["recorded"] == [(step, step + 5) for step in (1, 2, 3, 4)]  # the mean of both
    assert str(folder / "signal" / "checkpoint-degradation-4") in found[0]["signal"]["error"]
    assert [path.name for path in (folder / "signal").glob("checkpoint-*")] == ["checkpoint-degradation-4"]
    assert [json.loads(line)["loss"] for line in (folder / "signal" / "log.jsonl").read_text().splitlines()] == [9]


def test_what_is_not_finite_in_one_ends_both_before_anything_is_saved(pair):
    *found, folder = pair
    for each in found:
        assert each["nan"]["error"].startswith("RunError: loss is nan at degradation step 2, node 0: ")
        assert each["nan"]["recorded"] == [(1, 6)]
    assert not list((folder / "nan").glob("checkpoint-*")) and not (folder / "nan" / "log.jsonl").exists()
