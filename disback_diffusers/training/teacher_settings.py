# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the settings mean for a teacher: defaults that depend on it, and what it cannot do."""

from diffusers import ModelMixin

from ..diffusion.target_field import image_times
from ..errors import UsageError, about
from ..models.families.base import Family
from ..models.samplers import even_timesteps
from .arguments import DistillationArguments
from .path_probe import TEACHER_STEPS
from .settings import FEW_STEPS, GAN


LCM_TIMESTEP = 999  # where an LCM starts
GUIDED_UP_TO = 600  # timestep; see docs/results.md


def fit_settings(args: DistillationArguments, family: Family) -> None:
    """Set what depends on the teacher and was left to its default.

    Raises:
        UsageError: a setting that cannot work with this teacher, or has no effect on it.
    """
    _check_support(family, args)
    _check_samples(family, args)
    if args.data.negative_prompt:
        _check_negative_prompt(family, args)


def _check_support(family, args):
    """What not every architecture can do."""
    network = family.network_class
    supported = {
        "gradient_checkpointing": getattr(network, "_supports_gradient_checkpointing", False),  # of diffusers
        "enable_xformers_memory_efficient_attention": issubclass(network, ModelMixin),
        "student_unet": "student_unet" in family.supports,
        "lcm_lora": "lcm_lora" in family.supports,
        "init_lora": "lcm_lora" in family.supports,
        "student_steps": "student_steps" in family.supports,
        "timesteps": "student_steps" in family.supports,
        "validation_prompts": family.uses_prompts or family.classes,
    }
    defaults = args.defaults()
    for name, is_supported in supported.items():
        if args[name] != defaults[name] and not is_supported:
            raise UsageError(f"--{name} is not supported for this kind of teacher: leave it out.")
    if args.objective.objective not in FEW_STEPS and "guidance" not in family.supports:
        raise UsageError(f"--objective {args.objective.objective} is not supported for this kind of teacher.")
    if args.objective.objective in GAN and family.bottleneck_channels is None:
        raise UsageError(f"--objective {args.objective.objective} needs a teacher whose network has a mid block.")


def _check_samples(family, args):
    if args.objective.trains_fake_score:
        _set_start(family, args.student)
    _set_guidance(family, args.objective)
    if args.data.noise_levels != args.defaults()["noise_levels"] and family.schedule.num_train_timesteps:
        raise UsageError(f"--noise_levels {args.data.noise_levels}: this teacher has timesteps: leave it out.")
    with about("--resolution"):
        buckets = family.buckets(args.data.resolution)
    if args.run.log_mismatch_every and not family.uses_prompts:
        with about("--log_mismatch_every:"):
            image_times(family.schedule, buckets[0].shape)
    if args.run.validation_scheduler:
        with about("--validation_scheduler"):
            family.check_scheduler(args.run.validation_scheduler)
    if args.run.validation_scheduler and args.needs_path:
        with about("--pretrained_teacher_model: its own scheduler samples for the path. Steps:"):
            family.check_sampling(min(TEACHER_STEPS, family.schedule.num_train_timesteps))
    with about("--validation_inference_steps"):
        family.check_sampling(args.run.validation_inference_steps, args.run.validation_scheduler)
    _check_conditions(family, args)


def _check_conditions(family, args):
    """What has no effect on a teacher that has no prompts, or does not know the empty condition."""
    defaults, is_conditional = args.defaults(), family.uses_prompts or family.classes
    for name in ("caption_column", "cache_text_embeddings", "negative_prompt"):
        if args[name] != defaults[name] and not family.uses_prompts:
            raise UsageError(f"--{name}: this teacher is not conditioned on prompts: leave it out.")
    if is_conditional and family.can_be_empty:
        return
    why = "has no empty class" if is_conditional else "is unconditional"
    for name in ("guidance_scale", "fake_guidance_scale"):
        if args[name] != 1:
            raise UsageError(f"--{name} {args[name]}: this teacher {why}: set it to 1.")
    share = args.data.proportion_empty_prompts
    if share not in (0, defaults["proportion_empty_prompts"]):
        raise UsageError(f"--proportion_empty_prompts {share}: this teacher {why}: leave it out.")
    args.data.proportion_empty_prompts = 0.0


def _set_start(family, student):
    """Set where the student starts, if it was left to its default: at a timestep, or at a noise level."""
    has_levels = family.schedule.num_train_timesteps is None
    wanted, other = "conditioning_timestep", "conditioning_sigma"
    if has_levels:
        wanted, other = other, wanted
    if getattr(student, other) is not None:
        kind = "noise levels" if has_levels else "timesteps"
        raise UsageError(f"--{other}: this teacher has {kind}: use --{wanted}.")
    if getattr(student, wanted) is None:
        default = LCM_TIMESTEP if student.lcm_lora else family.conditioning_timestep
        setattr(student, wanted, family.schedule.time_range[1] if has_levels else default)
    with about(f"--{wanted}"):
        family.check_timestep(student.conditioning_time)
    if student.student_steps > 1 and student.timesteps is None:
        try:
            timesteps = even_timesteps(student.conditioning_timestep, student.student_steps)
        except ValueError as error:
            raise UsageError(f"--student_steps {student.student_steps}: {error}.") from None
        student.timesteps = ",".join(map(str, timesteps))


def _set_guidance(family, settings):
    """Set what was left to its default."""
    has_levels = family.schedule.num_train_timesteps is None
    if has_levels and settings.guidance_max_timestep is not None:
        raise UsageError("--guidance_max_timestep: this teacher has noise levels and no timesteps: leave it out.")
    if settings.guidance_scale is None:
        few_steps = settings.trains_fake_score
        settings.guidance_scale = family.guidance_scale if few_steps else family.stock_guidance_scale
    if settings.guidance_rule == "decoupled":
        _check_decoupled(settings, has_levels)
    if settings.guidance_max_timestep is None and settings.trains_fake_score and not has_levels:
        settings.guidance_max_timestep = GUIDED_UP_TO


def _check_decoupled(settings, has_levels):
    if has_levels or settings.guidance_scale == 1:
        why = "this teacher has noise levels and no timesteps" if has_levels else "--guidance_scale is 1"
        raise UsageError(f"--guidance_rule decoupled: {why}: leave it out.")
    if settings.guidance_max_timestep is not None and settings.fake_guidance_scale == 1:
        raise UsageError("--guidance_max_timestep has no effect with --guidance_rule decoupled: leave it out.")


def _check_negative_prompt(family, args):
    if args.objective.guidance_scale == args.objective.fake_guidance_scale == 1:
        raise UsageError("--negative_prompt has no effect without guidance: take a --guidance_scale, or leave it out.")
    with about("--negative_prompt"):
        if family.longer_than_read([args.data.negative_prompt]):
            raise UsageError(f"is longer than the {family.prompt_tokens} tokens that are read: shorten it.")
