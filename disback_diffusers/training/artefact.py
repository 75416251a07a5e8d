# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a finished run leaves: the averaged student, its settings and its model card."""

import os

from .. import hub
from ..card import model_card
from ..models.embedded import EMBEDDED
from ..models.lcm_lora import timesteps_by_steps
from .arguments import PATH, RESULT


def artefact_config(context, path, walked):
    """The content of disback_config.json."""
    args = context.args
    lora = context.roles.lora_config("student") if args.student == "lora" else None
    config = {
        "base_model": _base(args.pretrained_teacher_model),
        "base_revision": context.teacher.commit or args.teacher_revision,
        "variant": args.variant,
        "pipeline": context.teacher.pipeline_class.__name__,
        "student": args.student,
        "conditioning_timestep": args.conditioning_timestep,
        "lora_rank": lora["r"] if lora else None,
        "lora_alpha": lora["lora_alpha"] if lora else None,
        "method": args.recorded(PATH, RESULT),
    }
    if path is not None and not args.no_backtracking:
        config["method"]["node_steps"] = [node.step for node in path.nodes]
        config["method"]["path_walked"] = walked
    return config


def _base(name):
    """A Hub id as it is; a folder in full, so that the artefact can be loaded from anywhere on this machine."""
    return os.path.abspath(name) if os.path.isdir(name) and name != EMBEDDED else name


def save_artefact(context, folder, validator, path, walked, repo_id=None):
    """Write the student with its averaged weights (float32), disback_config.json and README.md with its samples.

    `walked` tells whether the nodes of `path` were targets of the student.
    """
    student = context.student
    config = artefact_config(context, path, walked)
    with student.averaged():
        if student.full:
            hub.save_student_unet(folder, student.unet)
        elif context.lcm_lora:
            context.lcm_lora.save(folder, student.state_dict())
        else:
            hub.save_student_lora(folder, student.state_dict(), context.roles.lora_config(student.role))
    hub.write_artefact_config(folder, config)
    steps = timesteps_by_steps(context.teacher.scheduler_config, student.timestep) if student.boundary else [1]
    model_card(
        folder,
        config,
        repo_id,
        *validator.card_samples(),
        config["method"].get("node_steps", ()),
        steps=list(steps),
        with_path=context.args.push_degradation_path,
    )
