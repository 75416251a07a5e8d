# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Signs that a training goes wrong: what is measured, its usual range, and an alarm when it is left for long."""

from dataclasses import dataclass

import torch


NEVER = float("inf")


@dataclass(frozen=True)
class Band:
    """The usual range of a metric, and what to do below and above it."""

    low: float = -NEVER
    high: float = NEVER
    too_low: str = ""
    too_high: str = ""

    @property
    def usual(self) -> str:
        """The range in words."""
        if self.low > -NEVER and self.high < NEVER:
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low > -NEVER else f"at most {self.high:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is in the range."""
        return self.low <= value <= self.high

    def advice(self, value: float) -> str:
        """What to do about a value outside of the range."""
        return self.too_low if value < self.low else self.too_high


# Measured on the embedded teacher by benchmarks/alarms.py.
BANDS = {
    "diversity": Band(
        0.3,
        2.5,
        "samples of one prompt vary far less than the teacher's: lower --guidance_scale, or take --objective "
        "dmd_regression",
        "samples of one prompt vary far more than the teacher's: take more prompts, or see that the fake score keeps "
        "up (--fake_score_learning_rate)",
    ),
    "saturation": Band(
        high=0.1,
        too_high="far more of the image is clipped than of the teacher's: lower --guidance_scale or "
        "--guidance_max_timestep",
    ),
    "contrast": Band(
        0.85,
        1.3,
        "the samples have a smaller standard deviation than the teacher's: lower --guidance_scale or "
        "--guidance_max_timestep",
        "the samples have a larger standard deviation than the teacher's: see that the fake score keeps up "
        "(--fake_score_learning_rate), or lower --guidance_scale",
    ),
    "grid": Band(
        high=3.0, too_high="the images have the texture of the VAE's grid: stop earlier, or lower --learning_rate"
    ),
    "score_ratio": Band(
        0.2,
        1.0,
        "the target pulls the samples far away from where they are: lower --guidance_scale or --guidance_max_timestep",
        "the fake score fits the samples no better than the target: raise --fake_score_learning_rate or "
        "--fake_score_updates_per_step",
    ),
}
PATIENCE = 3  # measurements in a row outside of the range


class Monitor:
    """Raises alarms for metrics that have left their range for long.

    A metric that has never been in its range, as at the start of a training, counts from half of the training on.

    Args:
        total_steps (`int`): of the training.
    """

    def __init__(self, total_steps: int):
        self.total_steps = total_steps
        self.entered: set[str] = set()
        self.outside: dict[str, int] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    @property
    def alarms(self) -> list[str]:
        """The metrics that have left their range for long."""
        return sorted(name for name, count in self.outside.items() if count >= PATIENCE)

    def add(self, metrics: dict[str, float]) -> None:
        """Take in the metrics of a logged step; between two measurements their mean counts."""
        for name in metrics.keys() & BANDS.keys():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + metrics[name], count + 1

    def measure(self, step: int) -> list[str]:
        """Compare the means since the last time with their ranges. Returns new alarms, each a line of text."""
        before, lines = self.alarms, []
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        for name, mean in means.items():
            if BANDS[name].holds(mean):
                self.entered.add(name)
                self.outside[name] = 0
            elif name in self.entered or 2 * step >= self.total_steps:
                self.outside[name] = self.outside.get(name, 0) + 1
        for name in [name for name in self.alarms if name not in before]:
            band, mean = BANDS[name], means[name]
            advice = f"usual is {band.usual}: {band.advice(mean)}."
            lines.append(f"Alarm at update {step}: {name} is {mean:.3g}, {advice}")
        return lines


def clipped(images: torch.Tensor) -> float:
    """Share of the values of images `(n, 3, H, W)` in [0, 1] that are at either end."""
    return ((images <= 0) | (images >= 1)).double().mean().item()


def grid_power(images: torch.Tensor, period: int) -> float:
    """Power at the frequencies of a grid of this period, in pixels, as a multiple of that of their neighbours.

    Of an image without a grid it is about 1.

    Args:
        images (`torch.Tensor` of shape `(n, 3, H, W)`): sides are multiples of the period.
    """
    grey, ratios = images.double().mean(dim=1), []
    for lines in (grey, grey.transpose(1, 2)):
        power = torch.fft.rfft(lines - lines.mean(dim=-1, keepdim=True), dim=-1).abs().square().mean(dim=(0, 1))
        for harmonic in range(1, period // 2 + 1):
            at = lines.shape[-1] * harmonic // period
            beside = [k for k in (at - 2, at - 1, at + 1, at + 2) if 0 < k < len(power) and k != at]
            ratios.append(power[at] / power[beside].mean().clamp(min=1e-12))
    return torch.stack(ratios).mean().item()
