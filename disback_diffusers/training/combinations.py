# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Settings that cannot work together, whatever the teacher is."""

from typing import TYPE_CHECKING

from ..errors import UsageError
from .settings import GAN, StudentArguments


if TYPE_CHECKING:
    from .arguments import DistillationArguments  # which imports this module


def check_combinations(args: "DistillationArguments") -> None:
    """Raise a UsageError that names the first setting which contradicts another, or has no effect."""
    _check_objective(args)
    _check_optimizers(args)
    _check_student(args)
    _check_run(args)


def _check_objective(args):
    objective = args.objective.objective
    _check_pairs(args)
    if objective in GAN and not args.data.real_images:
        raise UsageError(f"--objective {objective} needs --real_images, which its discriminator compares with.")
    if objective == "guidance" and args.objective.guidance_scale == 1:
        raise UsageError("--objective guidance needs a --guidance_scale other than 1: that is what it distills.")
    if objective in GAN and args.system.compile:
        raise UsageError(f"--compile does not work with --objective {objective}: leave it out.")


def _check_pairs(args):
    settings, defaults = args.objective, args.defaults()
    for name in ("teacher_pairs", "teacher_pairs_steps", "teacher_pairs_folder"):
        if args[name] != defaults[name] and not args.uses_pairs:
            users = "--warmup_pairs and --objective dmd_regression or guidance without --real_images"
            raise UsageError(f"--{name} is for {users}: leave it out.")
    if settings.fake_score_warmup_steps >= args.optimization.max_train_steps:
        raise UsageError(
            f"--fake_score_warmup_steps {settings.fake_score_warmup_steps} leaves no update for the student: take "
            "more --max_train_steps."
        )


def _check_optimizers(args):
    settings, defaults = args.optimization, args.defaults()
    kinds = {settings.optimizer, settings.fake_optimizer}
    if settings.use_8bit_adam and kinds != {"adamw"}:
        raise UsageError("--use_8bit_adam needs --optimizer adamw for both: take that, or leave it out.")
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if kinds == {"sgd"} and args[name] != defaults[name]:
            raise UsageError(f"--{name} has no effect with --optimizer sgd for both: leave it out.")
    schedules = {settings.lr_scheduler, settings.fake_score_lr_scheduler or "constant"}
    if settings.lr_warmup_steps and schedules == {"constant"}:
        raise UsageError("--lr_warmup_steps has no effect with --lr_scheduler constant: use constant_with_warmup.")


def _check_student(args):
    student = args.student
    if student.lcm_lora and student.student == "full":
        raise UsageError("--lcm_lora is the student, and a LoRA: leave --student full out.")
    starts = [name for name in ("init_lora", "lcm_lora", "student_unet") if args[name]]
    if len(starts) > 1:
        raise UsageError(f"--{starts[0]} and --{starts[1]} are both the student's start: leave one of them out.")
    of_lora = student.init_lora or (student.student_unet and student.student == "lora")
    if student.init_fake_from_student and not of_lora:
        raise UsageError(
            "--init_fake_from_student has no effect without --init_lora, or --student_unet of a LoRA student: add one "
            "of them, or leave it out."
        )
    if student.init_fake_from_student and args.objective.fake_score_init not in ("node", "teacher"):
        raise UsageError("--init_fake_from_student is a start of the fake score: leave --fake_score_init out.")
    if student.ema_half_life and student.ema_decay != StudentArguments.ema_decay:
        raise UsageError("--ema_half_life is given instead of --ema_decay: leave one of them out.")
    if student.proportion_later_steps and (not student.lcm_lora or student.student_steps > 1):
        raise UsageError("--proportion_later_steps is for an --lcm_lora of --student_steps 1: leave it out.")


def _check_run(args):
    run = args.run
    if run.keep_best and not args[f"log_{run.keep_best}_every"]:
        raise UsageError(f"--keep_best {run.keep_best} needs --log_{run.keep_best}_every: how often it is measured.")
    if run.log_fd_every and not run.fd_reference:
        raise UsageError("--log_fd_every needs --fd_reference: what the student's images are compared with.")
    if not run.output_dir:
        raise UsageError("--output_dir must be the name of a folder.")
    if run.hub_token and "wandb" in run.report_to:
        raise UsageError("--hub_token would be logged by --report_to wandb: use `hf auth login` instead.")
