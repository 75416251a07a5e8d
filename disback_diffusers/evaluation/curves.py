# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Plots of a run from its log.jsonl: losses, score gap, mismatch degree, FD. Changes of the target are marked."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from ..files import LOG, atomic_write


SMOOTHING = 0.95  # of the moving average, which is plotted over the raw values
LABELS = {
    "loss_regression": "student, on pairs of the teacher",
    "loss_target": "target, stage 1 (Eq. 7)",
    "loss_fake": "fake score (Eq. 5)",
    "loss_student": "student (Eq. 8)",
    "loss_gan": "student, GAN",
    "loss_discriminator": "discriminator",
    "relative_gap": "relative score gap",
    "score_cosine": "cosine of fake score and target",
    "score_ratio": "length, fake score / target",
    "diversity": "diversity, student / teacher",
    "saturation": "clipped, student - teacher",
    "contrast": "standard deviation, student / teacher",
    "grid": "power of the VAE's grid, student / teacher",
    "gap": "score gap: mean |fake - target| of the x0 estimates",
    "mismatch": "mismatch degree (Eq. 9)",
    "fd": "Fréchet distance to --fd_reference",
}
FIGURES = {  # file name to keys of the log
    "losses": ["loss_regression", "loss_target", "loss_fake", "loss_student", "loss_gan", "loss_discriminator"],
    "scores": ["relative_gap", "score_cosine", "score_ratio"],
    "health": ["diversity", "saturation", "contrast", "grid"],
    "gap": ["gap"],
    "mismatch": ["mismatch"],
    "fd": ["fd"],
}


def read_log(run: str | os.PathLike) -> dict[str, list[dict]]:
    """The lines of a run's log by stage: {"warmup": [...], "degradation": [...], "backtracking": [...]}.

    Args:
        run (`str` or `os.PathLike`): output folder of a run.

    Raises:
        UsageError: the log is missing or empty, or cannot be read.
    """
    file = Path(run) / LOG
    stages = {"warmup": [], "degradation": [], "backtracking": []}
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            record = json.loads(line)
            stages[record["stage"]].append(record)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; give the output folder of a run.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: line {number} is not one of a run's log.") from None
    if not any(stages.values()):
        raise UsageError(f"{file} is empty: the run has not made a step yet.")
    return stages


def switches(records: list[dict]) -> list[dict]:
    """The lines of stage 2 at which the target changed, and the first line."""
    return [r for r, last in zip(records, [None, *records]) if not last or r["node"] != last["node"]]


def add_seconds(stages: dict[str, list[dict]]) -> None:
    """Add `seconds` to each line: training time since the start, without measuring and saving."""
    seconds = 0.0
    for records in stages.values():
        last = 0
        for record in records:  # not every step has a line
            seconds += (record["step"] - last) * record["seconds_per_step"]
            record["seconds"], last = seconds, record["step"]


def smoothed(values: Iterable[float]) -> list[float]:
    """Exponential moving average with bias correction: the first average is the first value."""
    total = weight = 0.0
    averages = []
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        averages.append(total / weight)
    return averages


def plot_run(run: str | os.PathLike, folder: str | os.PathLike | None = None) -> list[Path]:
    """Plot the losses and, where they were logged, the other metrics, each group as PNG and SVG.

    Args:
        run (`str` or `os.PathLike`): output folder of a run.
        folder (`str` or `os.PathLike`, *optional*): where the files go; by default `plots/` in the run's folder.

    Returns:
        `list[Path]`: the files written.

    Raises:
        UsageError: as in `read_log`.
        RunError: a file cannot be written.
    """
    stages, folder = read_log(run), Path(folder or Path(run) / "plots")
    title = Path(run).resolve().name
    add_seconds(stages)
    written = []
    for name, keys in FIGURES.items():
        panels = [(stage, key, "step") for stage in stages for key in keys if _points(stages[stage], key)[0]]
        if panels and name == "fd":
            panels.append(("backtracking", "fd", "seconds"))
        if panels:
            written += _save(_figure(title, stages, panels), folder / name)
    return written


def _points(records, key, along="step"):
    """Steps (or seconds) and values of the lines that have a finite value."""
    found = [(record[along], record[key]) for record in records if record.get(key) is not None]
    return [place for place, _ in found], [value for _, value in found]


def _figure(title, stages, panels):
    import matplotlib.figure  # slow to import; no pyplot, so no display is needed

    figure = matplotlib.figure.Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axes, (stage, key, along) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        places, values = _points(stages[stage], key, along)
        sparse = len(places) < len(stages[stage])
        axes.plot(places, values, "o-" if sparse else "-", color="C0", alpha=1 if sparse else 0.3, linewidth=1)
        if not sparse:
            axes.plot(places, smoothed(values), color="C0")
        if stage == "backtracking":
            _mark_switches(axes, stages[stage], along)
        axes.set_xlabel(f"updates of {stage}" if along == "step" else "seconds of training, both stages")
        axes.set_title(LABELS[key], fontsize="medium")
        low, high = min(0, *values), max(0, *values)
        margin = 0.05 * (high - low) or 1  # all of the highest and the lowest point
        axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
        axes.grid(alpha=0.3)
    return figure


def _mark_switches(axes, records, along):
    next_label = float("inf")
    for record in reversed(switches(records)):
        place, node = record[along], record["node"]
        axes.axvline(place, color="grey", linestyle=":", linewidth=1)
        if next_label - place < 0.04 * records[-1][along]:
            continue  # the labels would overlap
        next_label, label = place, f"node {node}" if node else "teacher"
        axes.annotate(label, (place, 1), xycoords=("data", "axes fraction"), rotation=90, fontsize="x-small",
                      xytext=(2, -3), textcoords="offset points", verticalalignment="top")  # fmt: skip


def _save(figure, path):
    files = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for file in files:
        atomic_write(file, lambda temporary, kind=file.suffix[1:]: figure.savefig(temporary, format=kind, dpi=120))
    return files
