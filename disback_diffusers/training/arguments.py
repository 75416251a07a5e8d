# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""All settings of a run: the groups of `settings.py` behind the command line, the YAML presets and the Python API."""

import math
import os
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from typing import Any, get_type_hints

from ..errors import UsageError, counted, listed
from ..models.embedded import EMBEDDED
from .combinations import check_combinations
from .flags import NOTHING
from .objective_settings import ObjectiveArguments
from .run_settings import RunArguments, SystemArguments
from .settings import (
    FEW_STEPS,
    DataArguments,
    OptimizationArguments,
    PathArguments,
    StudentArguments,
    TeacherArguments,
)
from .values import checked


SHARE_OF_STAYS = 0.05  # of stage 2, with `--steps_per_node auto`
SHORTEST_STAY = 5  # updates
AUTO = "auto"


@dataclass(init=False)
class DistillationArguments:
    """The settings of a distillation, by group.

        args = DistillationArguments(pretrained_teacher_model="embedded", prompt_dataset="embedded", lora_rank=32)
        args.student.lora_rank

    Args:
        settings: any setting of any group, by its name on the command line.

    Raises:
        UsageError: a value of another type, or one that cannot work, whatever the teacher is.
        TypeError: an unknown setting.
    """

    teacher: TeacherArguments
    data: DataArguments
    student: StudentArguments
    path: PathArguments
    objective: ObjectiveArguments
    optimization: OptimizationArguments
    system: SystemArguments
    run: RunArguments

    def __init__(self, **settings: Any):
        for name in {"steps_per_node", "timesteps"} & settings.keys():  # a text with commas, or a number or several
            given = settings[name]
            if given is not None:
                settings[name] = ",".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
        for group in fields(type(self)):
            types = get_type_hints(group.type)  # the parser of transformers changes those of the fields
            own = {name: checked(name, types[name], settings.pop(name)) for name in types.keys() & settings.keys()}
            setattr(self, group.name, group.type(**own))
        if settings:
            like = get_close_matches(min(settings), names(), n=1)
            hint = f"; did you mean {like[0]}?" if like else "."
            raise TypeError(f"DistillationArguments has no setting '{min(settings)}'{hint}")
        self._complete()
        self.validate()

    def _complete(self):
        """Defaults that depend on other settings, and local paths in full."""
        self.teacher.variant = self.teacher.variant or None
        for name in names(local=True):
            if value := self[name]:
                self._set(name, os.path.expanduser(value))
        run, student = self.run, self.student
        if len(run.validation_prompts) == 1 and run.validation_prompts[0].lower().endswith(".txt"):
            run.validation_prompts = [os.path.expanduser(run.validation_prompts[0])]
        if run.report_to == ["none"]:  # as transformers has it
            run.report_to = []
        if student.proportion_later_steps is None:
            student.proportion_later_steps = 0.25 if student.lcm_lora and student.student_steps == 1 else 0.0
        if student.timesteps:
            self._complete_timesteps()
        if student.lora_alpha is None:
            student.lora_alpha = float(student.lora_rank)
        if not self.objective.trains_fake_score:
            self.path.no_backtracking = True
        elif self.objective.fake_score_init is None:
            self.objective.fake_score_init = "teacher" if self.path.no_backtracking else "node"

    def _complete_timesteps(self):
        """The number of steps and the first timestep from --timesteps, where they are not given."""
        student = self.student
        timesteps = _numbers(student.timesteps) or [0]
        if sorted(set(timesteps), reverse=True) != timesteps or timesteps[-1] == 0:
            raise UsageError(f"--timesteps {student.timesteps} must be whole numbers, falling, as 399,299,199,99.")
        given = {"student_steps": len(timesteps), "conditioning_timestep": timesteps[0]}
        for name, value in given.items():
            if self[name] not in (self.defaults()[name], value):
                raise UsageError(f"--timesteps {student.timesteps} contradicts --{name} {self[name]}: leave one out.")
            self._set(name, value)
        student.timesteps = ",".join(map(str, timesteps))

    # -----------------------------------------------------------------------------------------------------------------
    # By name

    def __getitem__(self, name: str) -> Any:
        """A setting by its name on the command line."""
        return getattr(getattr(self, _group_of(name)), name)

    def _set(self, name, value):
        setattr(getattr(self, _group_of(name)), name, value)

    def settings(self) -> dict[str, Any]:
        """All settings but the token, as plain values; local files that are read by their full path."""
        values = {name: self[name] for name in names() if name != "hub_token"}
        for name in set(names(local=True)) - set(names(shapes=NOTHING)):
            if values[name] not in (None, EMBEDDED) and os.path.exists(values[name]):
                values[name] = os.path.abspath(values[name])
        return values

    def recorded(self, *shapes: str) -> dict[str, Any]:
        """The settings that shape one of these."""
        return {name: self[name] for kind in shapes for name in names(shapes=kind)}

    def has_effect(self, name: str) -> bool:
        """Whether a setting can shape this run: its objective uses it, and what it belongs to is there."""
        metadata = _all_fields()[name].metadata
        users, needed = metadata["objectives"], metadata["needs"]
        if (users and self.objective.objective not in users) or (needed and not self[needed]):
            return False
        if name in {f.name for f in fields(PathArguments)}:
            return self.needs_path or (name == "no_backtracking" and self.objective.trains_fake_score)
        return self.uses_pairs or not name.startswith("teacher_pairs")

    @staticmethod
    def defaults() -> dict[str, Any]:
        """The default of every setting."""
        return {
            f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in _all_fields().values()
        }

    # -----------------------------------------------------------------------------------------------------------------
    # Checks

    def validate(self) -> None:
        """Check all values, as the constructor does.

        Raises:
            UsageError: a value of another type, or one that cannot work, whatever the teacher is.
        """
        stay = ",".join(_parts(self.path.steps_per_node))  # one spelling
        self.path.steps_per_node = int(stay) if stay.isascii() and stay.isdigit() else stay
        for group in fields(type(self)):
            own = getattr(self, group.name)
            for name, annotation in get_type_hints(group.type).items():
                if name != "steps_per_node":  # which has two types by now
                    setattr(own, name, checked(name, annotation, getattr(own, name)))
        defaults = self.defaults()
        for f in _all_fields().values():
            check_limits(f, self[f.name])
            needed = f.metadata["needs"]
            if needed and not self[needed] and self[f.name] != defaults[f.name]:
                raise UsageError(f"--{f.name} has no effect without --{needed}: add that, or leave it out.")
            users, objective = f.metadata["objectives"], self.objective.objective
            if users and objective not in users and self[f.name] != defaults[f.name]:
                raise UsageError(f"--{f.name} is {_whom_for(objective, users)}: leave it out.")
        if not self.teacher.pretrained_teacher_model:
            raise UsageError("--pretrained_teacher_model is required.")
        self._validate_path()
        check_combinations(self)

    def _validate_path(self):
        path, init = self.path, self.objective.fake_score_init
        if path.steps_per_node != AUTO and 0 in (_numbers(path.steps_per_node) or [0]):
            raise UsageError(
                f"--steps_per_node must be auto or a number greater than 0 (or such numbers, as 1000,1000,10000), not "
                f"{path.steps_per_node}."
            )
        if path.no_backtracking and path.degradation_path:
            raise UsageError("--no_backtracking walks no path: leave --degradation_path out.")
        if path.no_backtracking and init == "node":
            raise UsageError("--fake_score_init node needs a path: with --no_backtracking use teacher, fit or random.")
        if path.degradation_nodes > path.degradation_steps and not path.degradation_path:
            raise UsageError(
                f"--degradation_nodes {path.degradation_nodes} is more than --degradation_steps "
                f"{path.degradation_steps}: at most one node a step."
            )
        if not (path.no_backtracking or path.degradation_path):
            self.steps_per_stay(path.degradation_nodes - 1)  # checks

    @property
    def needs_path(self) -> bool:
        """Whether stage 1 records anything: targets for the student, or the start of the fake score."""
        return not self.path.no_backtracking or self.objective.fake_score_init == "fit"

    @property
    def uses_pairs(self) -> bool:
        """Whether pairs of noise and the teacher's sample are generated."""
        objective = self.objective.objective
        of_objective = objective == "dmd_regression" or (objective == "guidance" and not self.data.real_images)
        return of_objective or self.objective.warmup_pairs > 0

    def steps_per_stay(self, stays: int) -> int | list[int]:
        """Updates of stage 2 at each node that is a target: one number for all, or one for each in their order.

        Args:
            stays (`int`): how many such nodes there are, the teacher not among them.

        Raises:
            UsageError: nothing would be left for the teacher, or there are more or fewer numbers than nodes.
        """
        steps, given = self.optimization.max_train_steps, self.path.steps_per_node
        if isinstance(given, str) and given != AUTO:
            return [] if self.path.no_backtracking else self._given_stays(_numbers(given), stays)
        stay = max(SHORTEST_STAY, int(SHARE_OF_STAYS * steps / max(stays, 1))) if given == AUTO else given
        if stays and stays * stay >= steps:
            least = f": at least {SHORTEST_STAY}" if given == AUTO else ""
            smaller = "" if given == AUTO else ", a smaller --steps_per_node"
            fewer = "" if self.path.degradation_path else ", fewer --degradation_nodes"
            raise UsageError(
                f"--max_train_steps {steps} leaves no step for the true teacher: the path takes {stays} x {stay} "
                f"updates (--steps_per_node {given}{least}). Take more steps{smaller}{fewer}, or --no_backtracking."
            )
        return stay

    def _given_stays(self, given, stays):
        steps = self.optimization.max_train_steps
        if len(given) != stays:
            raise UsageError(
                f"--steps_per_node {self.path.steps_per_node} has {counted(len(given), 'number')}, but the path has "
                f"{counted(stays, 'target node')}. The last node, where the fake score starts, and the teacher take "
                "none."
            )
        if sum(given) >= steps:
            raise UsageError(
                f"--max_train_steps {steps} leaves no step for the true teacher: the path takes {sum(given)} updates "
                f"(--steps_per_node {self.path.steps_per_node}). Take more steps, or smaller numbers."
            )
        return given


def not_for(objective: str) -> set[str]:
    """The settings that this objective has no use for."""
    users = {f.name: f.metadata["objectives"] for f in _all_fields().values()}
    return {name for name, objectives in users.items() if objectives and objective not in objectives}


def _whom_for(objective, users):
    if objective not in FEW_STEPS:  # it has no use for most of what the others share
        return f"not for --objective {objective}"
    return f"for --objective {listed(users)}, not for {objective}"


def _parts(text: int | str) -> list[str]:
    """What is between commas."""
    return [part.strip() for part in str(text).split(",")]


def _numbers(text: int | str) -> list[int] | None:
    """Whole numbers, separated by commas; None where it is something else."""
    parts = _parts(text)
    return [int(part) for part in parts] if all(part.isascii() and part.isdigit() for part in parts) else None


GROUPS = [group.type for group in fields(DistillationArguments)]


def _all_fields() -> dict[str, Field]:
    return {f.name: f for group in GROUPS for f in fields(group)}


def _group_of(name: str) -> str:
    return next(g.name for g in fields(DistillationArguments) if name in {f.name for f in fields(g.type)})


def names(**metadata: Any) -> list[str]:
    """The settings whose metadata have these values, in their order."""
    return [f.name for f in _all_fields().values() if metadata.items() <= f.metadata.items()]


def check_limits(field: Field, value: Any) -> None:
    """Raise a UsageError where a number is outside of its field's limits, infinite, or not a number."""
    above, at_least, below = (field.metadata[name] for name in ("above", "at_least", "below"))
    if value is None or (above, at_least, below) == (None, None, None):
        return
    end = math.inf if below is None else below
    if above is not None:
        if not above < value < end:
            limit = "" if below is None else f" and below {below}"
            raise UsageError(f"--{field.name} must be a number greater than {above}{limit}, not {value}.")
    elif not at_least <= value < end:  # also refuses NaN
        limit = " or greater" if below is None else f" or greater, and below {below}"
        raise UsageError(f"--{field.name} must be {at_least}{limit}, not {value}.")
