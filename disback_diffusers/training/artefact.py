# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a finished run leaves: the averaged student, its settings and its model card."""

import os

from .. import hub
from ..card import model_card
from ..evaluation.sheets import to_pil
from ..models.embedded import EMBEDDED


# The settings that made the student what it is, for disback_config.json and the card.
METHOD = """
    no_backtracking degradation_steps degradation_nodes node_spacing degradation_learning_rate max_train_steps
    steps_per_node node_switching fake_score_init fake_score_updates_per_step gradient_weighting
    guidance_scale fake_guidance_scale guidance_max_timestep proportion_empty_prompts proportion_later_steps
    train_batch_size gradient_accumulation_steps learning_rate fake_score_learning_rate lr_scheduler
    fake_score_lr_scheduler ema_decay resolution seed prompt_dataset lcm_lora student_unet
""".split()


def artefact_config(context, path, walked):
    """The content of disback_config.json."""
    args = context.args
    lora = context.roles.lora_config("student") if args.student == "lora" else None
    config = {
        "base_model": _base(args.pretrained_teacher_model),
        "base_revision": context.teacher.commit or args.teacher_revision,
        "pipeline": context.teacher.pipeline_class.__name__,
        "student": args.student,
        "conditioning_timestep": args.conditioning_timestep,
        "lora_rank": lora["r"] if lora else None,
        "lora_alpha": lora["lora_alpha"] if lora else None,
        "method": {name: getattr(args, name) for name in METHOD},
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
    images = [to_pil(image) for image in validator.student_images()]
    model_card(folder, config, repo_id, validator.prompts, images, config["method"].get("node_steps", ()))
