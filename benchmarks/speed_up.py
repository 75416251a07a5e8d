# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How much sooner than a baseline something gets to where the baseline ends: table and picture of both benchmarks.

Curves are lists of measurements, one list a seed: {"updates": [...], "seconds": [...], "distance": [...]}, seconds
with stage 1; the same seeds and budget for all.
"""

from statistics import median

from matplotlib.figure import Figure


AXES = ("updates", "seconds")


def reached(curve, level, axis):
    """Updates or seconds of the first measurement at or below `level`; None where there is none."""
    return next((at for at, distance in zip(curve[axis], curve["distance"]) if distance <= level), None)


def speed_ups(curves, baseline, axis):
    """For each seed, how many times sooner than the baseline it is where that ends; 0 where it never is."""
    ratios = []
    for curve, base in zip(curves, baseline, strict=True):
        level = base["distance"][-1]
        at = reached(curve, level, axis)
        ratios.append(reached(base, level, axis) / at if at else 0.0)
    return ratios


def spread(values, digits=2):
    """Median and range as text."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(runs, baseline):
    """Lines of a Markdown table.

    Args:
        runs (`dict`): name to curves, one a seed.
        baseline (`str`): which of them the others are compared with.
    """
    lines = ["| | distance at the end | speed-up in updates | speed-up in seconds |", "| --- | --- | --- | --- |"]
    for name, curves in runs.items():
        ratios = [spread(speed_ups(curves, runs[baseline], axis)) for axis in AXES]
        lines.append(f"| {name} | {spread([curve['distance'][-1] for curve in curves], 3)} | {' | '.join(ratios)} |")
    return lines


def draw(runs, title, label):
    """Median over the seeds, and their range, over updates and over seconds; a `Figure`."""
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
