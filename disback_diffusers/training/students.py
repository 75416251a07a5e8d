# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a student can start as: a LoRA on the teacher, a network of its own, or an LCM-LoRA.

Each class makes a `Student` and writes it to the artifact in its own format.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ..artifact.save import save_lora, save_network
from ..models.adapter_files import base_fingerprint, fingerprint
from ..models.denoiser import ConsistencyDenoiser, Denoiser
from ..models.families.base import Family
from ..models.lcm_lora import LcmLora, later_timesteps
from ..models.lora_start import LoraStart
from ..models.roles import Roles
from ..models.samplers import ConsistencySteps, FewStep, OneStep, TeacherSteps
from ..models.student import Student
from ..models.student_unet import StudentUNet
from ..models.unet_difference import UNetDifference
from .settings import StudentArguments


logger = logging.getLogger(__name__)
ROLE = "student"


class LoraStudent:
    """A LoRA on the teacher's network; it starts as the teacher itself.

    Args:
        settings (`StudentArguments`): `conditioning_timestep` is set.
        lora_start (`LoraStart` or `UNetDifference`, *optional*): what it starts as instead.

    Attributes:
        ema_decay (`float`): of the moving average.
        own_sampler (`TeacherSteps` or `None`): how it generates, where that is not in few steps of its own.
    """

    role = ROLE
    denoiser_class = Denoiser
    # Where it starts with other weights than the teacher's: the setting that names them, and the key under which the
    # manifest of a path has their fingerprint.
    start_setting: str | None = None
    fingerprint_key: str | None = None

    def __init__(self, settings: StudentArguments, lora_start: LoraStart | UNetDifference | None = None):
        self.settings, self.lora_start, self.ema_decay = settings, lora_start, settings.ema_decay
        self.own_sampler: TeacherSteps | None = None
        if isinstance(lora_start, UNetDifference):
            self.start_setting = self.fingerprint_key = "student_unet"
        elif lora_start:
            self.start_setting, self.fingerprint_key = "init_lora", "init_lora_fingerprint"

    @property
    def start_layers(self) -> Sequence[str]:
        """Names of the layers that the roles must adapt beside the chosen ones, as its start does."""
        return self.lora_start.layers if self.lora_start else ()

    def start_role(self, roles: Roles, name: str) -> None:
        """Let a role start as `lora_start`, where there is one.

        Raises:
            UsageError: it does not fit the network.
        """
        if not self.lora_start:
            return
        kept = self.lora_start.write_into(roles, name)
        if kept < 1 - 1e-6 and name == self.role:
            logger.warning(
                f"--{self.start_setting} is more than --lora_rank {self.settings.lora_rank} can hold: the student "
                f"keeps {kept:.1%} of the squared norm of its difference to the teacher."
            )

    def add_role(self, roles: Roles, targets: list[str], seed: int) -> None:
        """Add the student's role, where it is one.

        Args:
            targets (`list[str]`): suffixes of the layers to adapt.
        """
        roles.add(self.role, self.settings.lora_rank, self.settings.lora_alpha, targets, seed=seed)
        self.start_role(roles, self.role)

    def load_network(self, family: Family) -> torch.nn.Module | None:
        """The student's own network, float32, on the CPU; None where it runs on the teacher's."""
        return None

    def build_network(self, family: Family) -> torch.nn.Module | None:
        """As `load_network`, with random weights, for planning on the meta device."""
        return None

    def make(
        self,
        family: Family,
        roles: Roles,
        network: torch.nn.Module | None,
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> Student:
        """The student; `network` as `load_network` returned it, on the device."""
        where = {"device": device, "autocast": autocast}
        if network is None:
            denoiser = self.denoiser_class(family, roles.network, family.schedule, roles, self.role, **where)
        else:
            denoiser = self.denoiser_class(family, network, family.schedule, **where)
        return Student(denoiser, self.sampler(family), self.ema_decay)

    def sampler(self, family: Family) -> OneStep | TeacherSteps:
        """How the student generates."""
        if self.own_sampler:
            return self.own_sampler
        first, later = self.settings.conditioning_time, self.settings.later_timesteps
        return FewStep(first, tuple(later)) if later else OneStep(first)

    def fingerprint(self, student: Student) -> str | None:
        """Of the weights it starts with, where they are not the teacher's; for the path's manifest."""
        return self.lora_start.fingerprint if self.lora_start else None

    def save(self, folder: str | os.PathLike, student: Student) -> None:
        """Write the student's weights, as they are now, to the artifact's folder."""
        denoiser = student.denoiser
        save_lora(folder, denoiser.state_dict(), denoiser.roles.lora_config(self.role))


class FullStudent(LoraStudent):
    """A network of its own: a copy of the teacher's, or another.

    Args:
        settings (`StudentArguments`): `conditioning_timestep` is set.
        start (`StudentUNet`, *optional*): the other network.
        lora_start (`LoraStart`, *optional*): a LoRA that is added to the copy.
    """

    role = None

    def __init__(
        self, settings: StudentArguments, start: StudentUNet | None = None, lora_start: LoraStart | None = None
    ):
        super().__init__(settings, lora_start)
        self.start = start
        if start:
            self.start_setting = self.fingerprint_key = "student_unet"

    def add_role(self, roles: Roles, targets: list[str], seed: int) -> None:
        """As in `LoraStudent`."""

    def load_network(self, family: Family) -> torch.nn.Module:
        """As in `LoraStudent`."""
        network = self.start.load() if self.start else family.load_network()
        if self.lora_start:
            self.lora_start.fuse_into(network)
        return network.eval().requires_grad_(True)

    def build_network(self, family: Family) -> torch.nn.Module:
        """As in `LoraStudent`."""
        return family.build_network(self.start.config if self.start else None)

    def fingerprint(self, student: Student) -> str | None:
        """As in `LoraStudent`."""
        return base_fingerprint(student.denoiser.network) if self.start else super().fingerprint(student)

    def save(self, folder: str | os.PathLike, student: Student) -> None:
        """As in `LoraStudent`."""
        save_network(folder, student.denoiser.network)


class LcmLoraStudent(LoraStudent):
    """An LCM-LoRA, with its boundary conditions; what is saved is a file of the same layout.

    Args:
        settings (`StudentArguments`): `conditioning_timestep` is set.
        lcm_lora (`LcmLora`): what it starts as.
    """

    denoiser_class = ConsistencyDenoiser
    start_setting = "lcm_lora"
    fingerprint_key = "lcm_lora_fingerprint"

    def __init__(self, settings: StudentArguments, lcm_lora: LcmLora):
        super().__init__(settings)
        self.lcm_lora = lcm_lora

    def add_role(self, roles: Roles, targets: list[str], seed: int) -> None:
        """As in `LoraStudent`; rank, alpha and layers are the file's."""
        self.lcm_lora.check_layers(roles.network)
        roles.add(self.role, self.lcm_lora.rank, self.lcm_lora.alpha, self.lcm_lora.layers)
        roles.load_state_dict(self.role, self.lcm_lora.state, source=str(self.lcm_lora.source))

    def fingerprint(self, student: Student) -> str:
        """As in `LoraStudent`."""
        return fingerprint(self.lcm_lora.state)

    def sampler(self, family: Family) -> OneStep:
        """As in `LoraStudent`, or a consistency model's where a share of later steps is trained."""
        first, proportion = self.settings.conditioning_timestep, self.settings.proportion_later_steps
        if not proportion:
            return super().sampler(family)
        return ConsistencySteps(first, tuple(later_timesteps(family.scheduler_config, first)), proportion)

    def save(self, folder: str | os.PathLike, student: Student) -> None:
        """As in `LoraStudent`."""
        self.lcm_lora.save(Path(folder), student.denoiser.state_dict())
