# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a finished run leaves: the averaged student, its configuration and its model card."""

import os
from dataclasses import fields
from pathlib import Path

from ..artifact.card import model_card
from ..artifact.layout import write_config
from ..artifact.teacher_lora import save_teacher_lora
from ..models.embedded import EMBEDDED
from ..models.lcm_lora import timesteps_by_steps
from ..models.samplers import TeacherSteps
from .arguments import DistillationArguments
from .best import BestStudent
from .flags import PATH, RESULT
from .networks import Networks
from .path import DegradationPath
from .settings import PathArguments
from .sources import Sources
from .switching import NodeWalk


def artifact_config(
    args: DistillationArguments, networks: Networks, path: DegradationPath | None, walk: NodeWalk, objective: str
) -> dict:
    """The content of disback_config.json.

    Args:
        path (`DegradationPath` or `None`): the path of the run.
        walk (`NodeWalk`): the targets of the student.
        objective (`str`): the name of what stage 2 minimised.
    """
    family, role = networks.family, networks.student.denoiser.role
    lora = networks.roles.lora_config(role) if role else None
    recorded = {name: value for name, value in args.recorded(PATH, RESULT).items() if args.has_effect(name)}
    config = {
        "base_model": _base(args.teacher.pretrained_teacher_model),
        "base_revision": family.commit or args.teacher.teacher_revision,
        "variant": args.teacher.variant,
        "pipeline": family.pipeline_name,
        **({} if family.uses_prompts else {"network": family.network_class.__name__}),
        "student": args.student.student,
        **_times(networks.student.sampler, family),
        **({"teacher_lora": _teacher_lora(args.teacher)} if args.teacher.teacher_lora else {}),
        **({"student_steps": args.student.student_steps} if args.student.student_steps > 1 else {}),
        **(_of_classes(args, family) if family.classes else {}),
        **({"base_interface": family.interface} if family.interface else {}),
        "lora_rank": lora["r"] if lora else None,
        "lora_alpha": lora["lora_alpha"] if lora else None,
        "method": {**recorded, "objective": objective, "ema_decay": networks.student.ema.decay},
    }
    if path is not None and not args.path.no_backtracking:
        of_stage_1 = {f.name for f in fields(PathArguments)} & path.settings.keys()
        config["method"] |= {name: path.settings[name] for name in of_stage_1}  # of a reused path, its own
        config["method"]["node_steps"] = [node.step for node in path.nodes]
        config["method"]["path_walked"] = walk.walks_path
    if walk.walks_path:
        config["method"]["steps_per_node"] = walk.steps_per_node  # where it was "auto"
    return config


def _times(sampler, family):
    """When the student is evaluated: at its timesteps or noise levels, or in many steps of the teacher's sampler."""
    if isinstance(sampler, TeacherSteps):
        return {"inference_steps": sampler.steps}
    return {"timesteps" if family.schedule.num_train_timesteps else "sigmas": sampler.timesteps}


def _of_classes(args, family):
    names = {"class_names": family.class_names} if family.class_names else {}
    return {"class_labels": args.data.class_labels, **names}


def _teacher_lora(settings):
    name = settings.teacher_lora
    return {"source": os.path.abspath(name) if os.path.exists(name) else name,
            "strength": settings.teacher_lora_strength}  # fmt: skip


def _base(name):
    """A Hub id as it is; a folder in full, so that the artifact can be loaded from anywhere on this machine."""
    return os.path.abspath(name) if os.path.isdir(name) and name != EMBEDDED else name


def save_artifact(
    folder: Path,
    args: DistillationArguments,
    sources: Sources,
    networks: Networks,
    samples: tuple[list, list],
    path: DegradationPath | None,
    walk: NodeWalk,
    objective: str,
    repo_id: str | None = None,
    best: BestStudent | None = None,
) -> None:
    """Write the student with its averaged weights (float32), disback_config.json and README.md.

    Args:
        samples (`tuple`): prompts and images for the card.
        path, walk, objective: as in `artifact_config`.
        repo_id (`str`, *optional*): where it is uploaded to.
        best (`BestStudent`, *optional*): what chose the student.
    """
    student = networks.student
    with student.averaged():
        sources.student.save(folder, student)
    config = artifact_config(args, networks, path, walk, objective)
    if best and best.step:
        config["method"] |= {"kept_step": best.step, f"kept_{best.metric}": round(best.value, 4)}
    if networks.family.lora and args.student.student == "lora":
        save_teacher_lora(folder, networks.family.lora)
    write_config(folder, config)
    first, scheduler = args.student.conditioning_timestep, networks.family.scheduler_config
    model_card(
        folder,
        config,
        repo_id,
        *samples,
        config["method"].get("node_steps", ()),
        steps=list(timesteps_by_steps(scheduler, first)) if args.student.proportion_later_steps else [1],
        with_path=args.run.push_degradation_path,
    )
