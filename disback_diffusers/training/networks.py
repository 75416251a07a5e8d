# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The networks of a run."""

from dataclasses import dataclass

from ..models.denoiser import Denoiser
from ..models.families.base import Family
from ..models.roles import Roles
from ..models.student import Student


@dataclass
class Networks:
    """The four networks, of which those that are roles share one base.

    Attributes:
        family (`Family`). roles (`Roles`): the adapters on the base.
        teacher (`Denoiser`): the base, all adapters off.
        target (`Denoiser`): the adapter "target": in stage 1 it is trained, in stage 2 it holds a node of the path.
        fake (`Denoiser`): the adapter "fake", the score of the student's samples.
        student (`Student`).
    """

    family: Family
    roles: Roles
    teacher: Denoiser
    target: Denoiser
    fake: Denoiser
    student: Student
