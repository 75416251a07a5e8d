# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The curves of a run, from its log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from disback_diffusers.errors import UsageError
from disback_diffusers.evaluation import curves
from disback_diffusers.evaluation.curves import add_seconds, plot_run, read_log, smoothed, switches


SCRIPT = Path(__file__).parents[2] / "train_scripts" / "plot_disback.py"
NODES = (3, 3, 2, 2, 2, 1, 0, 0, 0, 0)


def write_log(folder, mismatch_every=0):
    lines = [{"stage": "degradation", "node": 1, "step": step, "loss_target": 0.5} for step in (1, 2, 3)]
    for step, node in enumerate(NODES, 1):
        line = {"stage": "backtracking", "node": node, "step": step, "loss_student": 0.3, "loss_fake": 0.2, "gap": 0.1}
        if mismatch_every and step % mismatch_every == 0:
            line.update(mismatch=1 / step, fd=2 / step)
        lines.append(line)
    lines = [{**line, "seconds_per_step": 0.5} for line in lines]
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_switch_is_where_the_node_changes(tmp_path):
    stages = read_log(write_log(tmp_path / "run"))
    assert {name: len(records) for name, records in stages.items()} == {
        "warmup": 0, "degradation": 3, "backtracking": 10}  # fmt: skip
    found = switches(stages["backtracking"])
    assert [(line["step"], line["node"]) for line in found] == [(1, 3), (3, 2), (6, 1), (7, 0)]


def test_pictures_of_a_warm_up_and_of_the_health(tmp_path):
    run = write_log(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines[-1] |= {"diversity": 0.8, "saturation": -0.01, "score_ratio": 0.9}
    first = {"stage": "warmup", "node": 0, "step": 1, "loss_regression": 0.4, "seconds_per_step": 0.5}
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [first, *lines]))
    names = {file.name for file in plot_run(run)}
    assert {"health.png", "scores.png", "losses.png"} <= names
    widths = {name: Image.open(run / "plots" / f"{name}.png").width for name in ("losses", "health", "scores")}
    assert widths["losses"] == 4 * widths["scores"] and widths["health"] == 2 * widths["scores"]
    assert "updates of warmup" in (run / "plots" / "losses.svg").read_text()


def test_the_moving_average_starts_at_the_first_value():
    assert smoothed([4.0] * 3) == pytest.approx([4.0] * 3)
    values = smoothed([0.0, 1.0])
    assert values == [0.0, pytest.approx(1 / 1.95)]


@pytest.mark.parametrize("every, names", [(0, {"losses", "gap"}), (5, {"losses", "gap", "mismatch", "fd"})])
def test_pictures_of_what_was_logged(tmp_path, every, names):
    run = write_log(tmp_path / "run", every)
    files = plot_run(run)
    assert {file.name for file in files} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {file.parent for file in files} == {run / "plots"}
    svg = (run / "plots" / "gap.svg").read_text()
    assert svg.count("<!-- node ") == 3 and "<!-- teacher -->" in svg
    panels = [Image.open(run / "plots" / f"{name}.png").width for name in ("losses", "gap")]
    assert panels[0] == 3 * panels[1]
    if every:
        assert Image.open(run / "plots" / "fd.png").width == 2 * panels[1]
        assert "seconds of training" in (run / "plots" / "fd.svg").read_text()


def test_the_highest_point_is_inside_of_the_picture():
    records = [{"step": 6, "fd": 145.0, "node": 0}, {"step": 12, "fd": 133.0, "node": 0}]
    (axes,) = curves._figure("run", {"backtracking": records}, [("backtracking", "fd", "step")]).axes
    assert axes.get_ylim() == (0, pytest.approx(1.05 * 145))


def test_seconds_are_of_both_stages_and_of_steps_without_a_line(tmp_path):
    stages = {
        "degradation": [{"step": 2, "seconds_per_step": 3.0}, {"step": 3, "seconds_per_step": 1.0}],
        "backtracking": [{"step": 5, "seconds_per_step": 2.0}, {"step": 7, "seconds_per_step": 4.0}],
    }
    add_seconds(stages)
    assert [line["seconds"] for records in stages.values() for line in records] == [6, 7, 17, 25]


def test_labels_do_not_overlap(tmp_path):
    run = write_log(tmp_path / "run")
    last = {"stage": "backtracking", "node": 0, "step": 1000, "gap": 0.1, "seconds_per_step": 1.0}
    with open(run / "log.jsonl", "a") as log:
        log.write(json.dumps(last) + "\n")
    plot_run(run)
    svg = (run / "plots" / "gap.svg").read_text()
    assert svg.count("<!-- node ") == 0 and "<!-- teacher -->" in svg


def test_values_that_were_not_finite_are_left_out(tmp_path):
    run = write_log(tmp_path / "run")
    with open(run / "log.jsonl", "a") as log:
        log.write('{"stage": "backtracking", "node": 0, "step": 11, "gap": null, "seconds_per_step": 1.0}\n')
    assert plot_run(run)


@pytest.mark.parametrize(
    "text, expected",
    [(None, "No such file"), ("", "has not made a step"), ("{}\n", "line 1"), ("7\n", "line 1"),
     ('{"stage": "other"}\n', "line 1"), ('{"stage": "degradation"}\n{"sta', "line 2")],
)  # fmt: skip
def test_what_is_no_log(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        read_log(tmp_path)
    assert str(tmp_path / "log.jsonl") in str(caught.value)


def test_the_command(tmp_path):
    command = [sys.executable, str(SCRIPT), str(write_log(tmp_path / "run"))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines() == [
        str(tmp_path / "run" / "plots" / name) for name in ("losses.png", "losses.svg", "gap.png", "gap.svg")
    ]
    run = subprocess.run([*command[:2], str(tmp_path / "nowhere")], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("plot_disback.py: error: ") and run.stderr.count("\n") == 1
