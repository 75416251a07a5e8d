# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Speed-up over a baseline: how much earlier a run reaches the baseline's last distance. Table and plot of benchmarks.

There is one curve per seed: {"updates": [...], "seconds": [...], "distance": [...]}. The seconds include stage 1. All
runs have the same seeds and the same number of updates.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from matplotlib.figure import Figure


AXES = ("updates", "seconds")
Curve = Mapping[str, Sequence[float]]


def reached(curve: Curve, level: float, axis: str) -> float | None:
    """Updates or seconds of the first measurement at or below `level`, or None."""
    return next((at for at, distance in zip(curve[axis], curve["distance"]) if distance <= level), None)


def speed_ups(curves: Iterable[Curve], baseline: Iterable[Curve], axis: str) -> list[float]:
    """Speed-up of each seed: updates or seconds that its baseline needs for its last distance, divided by its own.

    It is 0 for a seed that never reaches that distance.
    """
    ratios = []
    for curve, base in zip(curves, baseline, strict=True):
        level = base["distance"][-1]
        at = reached(curve, level, axis)
        ratios.append(reached(base, level, axis) / at if at else 0.0)
    return ratios


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range as text."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(runs: Mapping[str, Sequence[Curve]], baseline: str) -> list[str]:
    """Lines of a Markdown table.

    Args:
        runs (`dict`): name to curves, one per seed.
        baseline (`str`): the run that the others are compared with.
    """
    lines = ["| | distance at the end | speed-up in updates | speed-up in seconds |", "| --- | --- | --- | --- |"]
    for name, curves in runs.items():
        ratios = [spread(speed_ups(curves, runs[baseline], axis)) for axis in AXES]
        lines.append(f"| {name} | {spread([curve['distance'][-1] for curve in curves], 3)} | {' | '.join(ratios)} |")
    return lines


def plot(runs: Mapping[str, Sequence[Curve]], title: str, label: str) -> Figure:
    """Median and range of the seeds, over updates and over seconds."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, axis in zip(figure.subplots(1, 2, sharey=True), AXES):
        for i, (name, curves) in enumerate(runs.items()):
            columns = list(zip(*(curve["distance"] for curve in curves)))
            at = [median(values) for values in zip(*(curve[axis] for curve in curves))]
            axes.plot(at, [median(values) for values in columns], color=f"C{i}", label=name)
            axes.fill_between(at, *([f(values) for values in columns] for f in (min, max)), color=f"C{i}", alpha=0.2)
        axes.set(xlabel=axis, yscale="log")
    figure.axes[0].set_ylabel(label)
    figure.axes[1].legend()
    figure.suptitle(f"{title}; median and range of {len(curves)} seeds, stage 1 included in the seconds")
    return figure
