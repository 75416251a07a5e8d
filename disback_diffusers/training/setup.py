# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""From arguments to everything a run works with: checks first, then weights."""

import logging
import os
from contextlib import nullcontext
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration

from ..data.prompts import load_prompts
from ..errors import UsageError, one_line
from ..evaluation.reference import saved_reference
from ..launcher import check_launcher
from ..models.adapter_files import base_fingerprint
from ..models.conditioning import PromptBank
from ..models.embedded import resolve
from ..models.lcm_lora import LcmLora
from ..models.roles import ALL_TARGETS, ATTENTION_TARGETS, Roles, present_targets
from ..models.student import Student
from ..models.student_unet import StudentUNet
from .batches import BatchSource
from .distance import FLAG, load_instruments
from .learner import optimizer_class
from .path import DegradationPath
from .run_folder import RunFolder
from .stage import Context
from .switching import targets
from .validation import Validator, validation_prompts


logger = logging.getLogger(__name__)
OTHER_STUDENT_UNET = "--degradation_path {} leads to another student: --student_unet is not the same. Record a path."
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(args, teacher_class):
    """Everything that can go wrong before weights are loaded."""
    check_launcher()
    vae = args.pretrained_vae_model_name_or_path
    teacher = teacher_class(args.pretrained_teacher_model, args.teacher_revision, args.variant, vae)
    teacher.check_timestep(args.conditioning_timestep)
    teacher.buckets(args.resolution)
    _check_other_models(args, teacher)
    if args.log_fd_every:
        saved_reference(args.fd_reference, FLAG)  # checks
    if not args.dry_run:  # which may plan for another machine
        _check_packages(args)
    prompts = load_prompts(args.prompt_dataset, args.caption_column)
    shown = validation_prompts(args.validation_prompts, prompts)
    long = _longer_than_read(teacher, prompts, f"--prompt_dataset {args.prompt_dataset}")
    _longer_than_read(teacher, shown, "--validation_prompts")
    if args.degradation_path:
        _check_path(args)
    accelerator = make_accelerator(args)
    args.mixed_precision = accelerator.mixed_precision  # for the records, where it was left to accelerate
    folder = RunFolder(args.output_dir, accelerator.is_main_process)
    folder.check(args.settings(), args.resume_from_checkpoint)
    _check_checkpoint(folder.find(args.resume_from_checkpoint), args.max_train_steps)
    if accelerator.is_main_process:
        _warn(teacher, long, len(prompts))
    accelerator.wait_for_everyone()
    return teacher, prompts, accelerator, folder


def _check_other_models(args, teacher):
    if args.lcm_lora:
        LcmLora(args.lcm_lora, teacher.unet_config)
    if args.student_unet:
        _other_unet(args, teacher)


def _check_packages(args):
    optimizer_class(args.use_8bit_adam)
    _check_xformers(args)
    if args.log_fd_every:
        load_instruments(args, "cpu")


def _warn(teacher, long, prompts):
    for warning in teacher.warnings:
        logger.warning(warning)
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        logger.warning("accelerate's dynamo_backend has no effect here: --compile compiles the UNet.")
    if long:
        logger.warning(
            f"{long:,} of {prompts:,} prompts are longer than {teacher.prompt_tokens} tokens; the text encoder "
            "ignores the rest."
        )


def _check_checkpoint(checkpoint, max_train_steps):
    if checkpoint and checkpoint.stage_name == "backtracking" and checkpoint.step > max_train_steps:
        raise UsageError(
            f"--max_train_steps {max_train_steps} is less than the {checkpoint.step} updates that the run has made: "
            f"give at least {checkpoint.step}."
        )
    if checkpoint and (checkpoint.stage_name, checkpoint.step) == ("backtracking", max_train_steps):
        logger.info(f"The run has made its {max_train_steps} updates before: only the student is written again.")


def _other_unet(args, teacher):
    return StudentUNet(args.student_unet, teacher.unet_config, args.variant, teacher.schedule.prediction_type)


def _longer_than_read(teacher, prompts, flag):
    try:
        return teacher.longer_than_read(prompts)
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from None


def make_accelerator(args):
    """Raises a UsageError for a missing tracker or a precision or kind of parallelism that cannot work."""
    unknown = set(args.report_to) - {"all", *LOGGER_TYPE_TO_CLASS}
    if unknown:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise UsageError(f"--report_to {min(unknown)}: there is no such tracker; none, all, or some of {known}.")
    precision = args.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in DTYPES:
        raise UsageError(
            f"--mixed_precision {precision} (as accelerate is set) is not supported: use bf16, fp16 or no."
        )
    logging_dir = os.path.join(args.output_dir, args.logging_dir)
    if args.report_to and os.path.isfile(logging_dir):
        raise UsageError(f"--logging_dir {args.logging_dir} is a file: choose a folder.")
    try:
        accelerator = Accelerator(
            mixed_precision=args.mixed_precision,
            log_with=args.report_to or None,
            # What the main process does alone (samples, checkpoints, a cache of embeddings) takes its time.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
            project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=logging_dir),
        )
    except (ImportError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        if "precision" in reason or isinstance(error, ImportError):
            raise UsageError(f"--mixed_precision {precision} cannot be used here: {reason}") from None
        raise UsageError(
            f"accelerate cannot start ({reason}): check `accelerate config` and the environment variables it was "
            "launched with."
        ) from None
    missing = set(args.report_to) - {"all"} - {str(tracker) for tracker in accelerator.log_with}
    if missing:
        raise UsageError(f"--report_to {min(missing)}: this tracker is not installed (pip install {min(missing)}).")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise UsageError(
            f"accelerate's {accelerator.distributed_type.value} is not supported: use plain data parallelism (one "
            "process a GPU); with LoRA roles a process needs little more memory than the teacher itself."
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("--mixed_precision fp16 needs a GPU: use bf16 or no.")
    if args.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    return accelerator


def _check_xformers(args):
    if not args.enable_xformers_memory_efficient_attention:
        return
    try:
        import xformers  # noqa: F401
    except ImportError:
        message = '--enable_xformers_memory_efficient_attention needs xformers: pip install "disback-diffusers[gpu]".'
        raise UsageError(message) from None
    if not torch.cuda.is_available():
        raise UsageError("--enable_xformers_memory_efficient_attention needs a CUDA GPU.")


def _check_path(args):
    try:
        path = DegradationPath.load(args.degradation_path)
    except UsageError as error:
        raise UsageError(f"--degradation_path: {error}") from None
    if not path.complete:
        raise UsageError(
            f"--degradation_path {args.degradation_path} was not recorded to its end: resume that run first."
        )
    timestep = path.settings.get("conditioning_timestep")
    if timestep != args.conditioning_timestep:
        raise UsageError(
            f"--degradation_path {args.degradation_path} leads to a student of --conditioning_timestep {timestep}, "
            f"here it is {args.conditioning_timestep}: set that one, or record a path."
        )
    if bool(path.settings.get("lcm_lora")) != bool(args.lcm_lora):
        raise UsageError(
            f"--degradation_path {args.degradation_path} leads to another student: one of the two starts as an "
            "--lcm_lora. Record a path."
        )
    if bool(path.settings.get("student_unet")) != bool(args.student_unet):
        raise UsageError(OTHER_STUDENT_UNET.format(args.degradation_path))
    nodes = len(targets(len(path), args.node_switching == "fixed" or path.verdict()[0])) - 1
    stretch = nodes * args.steps_per_node
    if stretch >= args.max_train_steps:
        raise UsageError(
            f"--max_train_steps {args.max_train_steps} leaves no step for the true teacher: {nodes} nodes "
            f"take --steps_per_node {args.steps_per_node} each, {stretch} together: take more steps."
        )


# ---------------------------------------------------------------------------------------------------------------------


def build(args, teacher, prompts, accelerator, folder):
    """Load the weights; returns the `Context` and the `Validator`."""
    device, dtype = accelerator.device, DTYPES[accelerator.mixed_precision]
    if args.report_to:
        settings = {key: str(value) if isinstance(value, list) else value for key, value in args.settings().items()}
        accelerator.init_trackers("disback", {key: value for key, value in settings.items() if value is not None})

    # On the CPU until the text encoder is through; what does not fit is told before thousands of prompts are encoded.
    unet = teacher.load_unet(dtype)
    lcm_lora = LcmLora(args.lcm_lora, teacher.unet_config) if args.lcm_lora else None
    roles = make_roles(args, unet, lcm_lora)
    student_unet = _student_unet(args, teacher) if args.student == "full" else None
    if args.degradation_path:
        path = DegradationPath.load(args.degradation_path, base=roles)
        if args.student_unet and path.settings["student_unet"] != base_fingerprint(student_unet):
            raise UsageError(OTHER_STUDENT_UNET.format(args.degradation_path))
    if accelerator.is_main_process:
        teacher.load_vae()

    bank = _prompt_bank(args, teacher, prompts, accelerator, folder)
    shown = validation_prompts(args.validation_prompts, prompts)
    shown_conditioning = bank.encode(shown).to("cpu")
    if args.cache_text_embeddings != "off":
        bank.encode = None  # the text encoder's memory is free again

    unet.to(device)
    if student_unet:
        student_unet.to(device)
    _speed(args, [unet, student_unet] if student_unet else [unet])
    timestep, boundary = args.conditioning_timestep, lcm_lora is not None
    student = Student(roles, teacher.schedule, timestep, student_unet, args.ema_decay, boundary)
    last = teacher.schedule.num_train_timesteps - 1
    batches = BatchSource(
        bank,
        teacher.buckets(args.resolution),
        (round(0.02 * last), round(0.98 * last)),
        args.train_batch_size,
        args.proportion_empty_prompts,
        args.seed,
        accelerator.process_index,
        accelerator.num_processes,
        device,
    )
    context = Context(args, accelerator, teacher, roles, student, batches, lcm_lora)
    return context, Validator(context, shown, shown_conditioning, folder.folder / "samples")


def _student_unet(args, teacher):
    other = args.student_unet and _other_unet(args, teacher)
    return (other.load() if other else teacher.load_unet()).eval().requires_grad_(True)


def _prompt_bank(args, teacher, prompts, accelerator, folder):
    dtype = DTYPES[accelerator.mixed_precision]
    first = accelerator.main_process_first() if args.cache_text_embeddings == "disk" else nullcontext()
    with first:  # the others then find the file
        return PromptBank(
            prompts,
            teacher.load_encoder(accelerator.device, dtype),
            cache=args.cache_text_embeddings,
            folder=folder.folder / "text_embeddings",
            encoder_id=f"{resolve(teacher.name)} {teacher.commit} {args.variant} {dtype}",
            show_progress=accelerator.is_main_process,
        )


def make_roles(args, unet, lcm_lora=None):
    """The adapters of the run: "target" and "fake" of one rank, so that a node's file fits both, and "student"."""
    targets = args.lora_target_modules
    if targets in (["attention"], ["all"]):  # as far as this UNet has such layers; what a user names it must have
        targets = present_targets(unet, ATTENTION_TARGETS if targets == ["attention"] else ALL_TARGETS)
    roles = Roles(unet)
    for seed, name in enumerate(("target", "fake", "student")):
        if name == "student" and lcm_lora:
            lcm_lora.check_layers(unet)
            roles.add(name, lcm_lora.rank, lcm_lora.alpha, lcm_lora.layers)
            roles.load_state_dict(name, lcm_lora.state, source=f"--lcm_lora {lcm_lora.source}")
        elif name != "student" or args.student == "lora":
            roles.add(name, args.lora_rank, args.lora_alpha, targets, seed=args.seed + seed)
    return roles


def _speed(args, unets):
    for unet in unets:
        if args.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if args.enable_xformers_memory_efficient_attention:
            unet.enable_xformers_memory_efficient_attention()
        if args.compile:
            torch._dynamo.config.recompile_limit = 64  # a graph for each role, with and without gradients
            unet.compile()
