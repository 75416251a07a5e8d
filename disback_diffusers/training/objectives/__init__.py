# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What stage 2 minimises. Another objective is another class, with the same methods as `Objective`."""

from .adversarial import Adversarial, FDivergence
from .adversarial_score import AdversarialScore
from .base import Losses, Objective
from .guidance import GuidanceDistillation
from .matching import DistributionMatching
from .regression import RegressedMatching
from .score_identity import ScoreIdentity


__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "AdversarialScore",
    "DistributionMatching",
    "FDivergence",
    "GuidanceDistillation",
    "Losses",
    "Objective",
    "RegressedMatching",
    "ScoreIdentity",
    "name_of",
]

# By their names on the command line.
OBJECTIVES: dict[str, type[Objective]] = {
    "dmd": DistributionMatching,
    "sid": ScoreIdentity,
    "gan": Adversarial,
    "fdiv": FDivergence,
    "asd": AdversarialScore,
    "dmd_regression": RegressedMatching,
    "guidance": GuidanceDistillation,
}


def name_of(objective: type[Objective]) -> str:
    """Its name on the command line, or that of the class."""
    return next((name for name, known in OBJECTIVES.items() if known is objective), objective.__name__)
