# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distribution matching with a regression on the teacher's own samples (Yin et al., 2024a, DMD)."""

import torch

from ...models.batch import Batch
from ...models.student import Student
from ..objective_settings import ObjectiveArguments
from .base import Losses
from .matching import DistributionMatching


def regression_loss(student: Student, batch: Batch) -> torch.Tensor:
    """Mean squared difference of the student's first step and the teacher's sample of the same noise: a scalar.

    DMD measures it on images, by LPIPS; here it is measured on samples, as DMD2 does for SDXL.
    """
    pair = batch.pair()
    return (student.first_step(pair.z, pair.conditions) - pair.x0).square().mean()


class RegressedMatching(DistributionMatching):
    """Eq. 8 and a regression on pairs of noise and the teacher's sample.

    Of a student of several steps it is the first one that is regressed: it decides what is in the image, and later
    steps refine it.
    """

    needs_pairs = True

    @classmethod
    def forwards(cls, settings: ObjectiveArguments) -> float:
        """As in `Objective`; the pairs themselves are not counted."""
        return super().forwards(settings) + 2

    def losses(self, batch: Batch) -> Losses:
        """As in `Objective`."""
        for item in super().losses(batch):
            if isinstance(item, dict):
                loss = regression_loss(self.student, batch)
                yield "student", self.settings.regression_weight * loss
                item = {**item, "loss_regression": loss.detach()}
            yield item
