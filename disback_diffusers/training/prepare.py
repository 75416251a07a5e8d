# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Everything that can go wrong before weights are loaded."""

import logging
import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration

from .. import hub
from ..errors import UsageError, about, one_line
from ..launcher import check_launcher
from ..models.families.base import Family
from .arguments import DistillationArguments
from .build import DTYPES, make_roles
from .optimizers import optimizer_class
from .run_folder import RunFolder
from .run_settings import RunArguments, SystemArguments
from .sources import Sources, open_extractor, open_sources


logger = logging.getLogger(__name__)
WOULD_STOP = "A run on this machine would stop:"


def prepare(
    args: DistillationArguments, families: Iterable[type[Family]] | None = None
) -> tuple[Sources, Accelerator, RunFolder]:
    """Open and check everything but weights.

    Args:
        families (`list[type[Family]]`, *optional*): those that the script is for; by default all.

    Raises:
        UsageError: a flag, a file or an environment that cannot work.
        RunError: the Hub cannot be reached.
    """
    check_launcher()
    if args.run.push_to_hub:
        with about("--hub_model_id" if args.run.hub_model_id else "--output_dir:"):
            hub.check_repo_name(repo_name(args.run))
    sources = open_sources(args, families)
    if not args.run.dry_run:  # which does it by itself
        _check_adapters(args, sources)
    _check_packages(args.optimization.use_8bit_adam, args.system, args.run.dry_run)
    accelerator = make_accelerator(args.system, args.run)
    if not args.run.dry_run:
        open_extractor(sources, accelerator.device)
    args.system.mixed_precision = accelerator.mixed_precision  # for the records, where it was left to accelerate
    if args.student.ema_half_life:
        images = args.data.train_batch_size * args.data.gradient_accumulation_steps * accelerator.num_processes
        sources.student.ema_decay = 0.5 ** (images / args.student.ema_half_life)
    folder = RunFolder(args.run.output_dir, accelerator.is_main_process)
    folder.check(args.settings(), args.run.resume_from_checkpoint)
    _check_checkpoint(folder.find(args.run.resume_from_checkpoint), args.optimization.max_train_steps)
    if accelerator.is_main_process:
        _warn(sources)
    accelerator.wait_for_everyone()
    return sources, accelerator, folder


def _check_adapters(args, sources):
    """Add them to a network without weights: whether they fit depends on the names and shapes of its layers."""
    with torch.device("meta"):
        make_roles(sources.family, sources.family.build_network(), args, sources.student)


def repo_name(run: RunArguments) -> str:
    """The repository that the student is uploaded to."""
    return run.hub_model_id or os.path.basename(os.path.abspath(run.output_dir))


def _check_packages(use_8bit_adam, system, dry_run):
    try:
        optimizer_class(use_8bit_adam)  # checks
        _check_xformers(system)
    except UsageError as error:
        if not dry_run:  # which may plan for another machine
            raise
        logger.warning(f"{WOULD_STOP} {error}")


def _warn(sources):
    family, long, count = sources.family, sources.long_prompts, len(sources.prompts)
    for warning in family.warnings:
        logger.warning(warning)
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        logger.warning("accelerate's dynamo_backend has no effect here: --compile compiles the network.")
    if long:
        logger.warning(
            f"{long:,} of {count:,} prompts are longer than {family.prompt_tokens} tokens; the text encoder ignores "
            "the rest."
        )


def _check_checkpoint(checkpoint, max_train_steps):
    if not checkpoint or not checkpoint.is_of_last_stage:
        return
    if checkpoint.step > max_train_steps:
        raise UsageError(
            f"--max_train_steps {max_train_steps} is less than the {checkpoint.step} updates that the run has made: "
            f"give at least {checkpoint.step}."
        )
    if checkpoint.step == max_train_steps:
        logger.info(f"The run has made its {max_train_steps} updates before: only the student is written again.")


def make_accelerator(system: SystemArguments, run: RunArguments) -> Accelerator:
    """The accelerator of a run.

    Raises:
        UsageError: a missing tracker, or a precision or kind of parallelism that cannot work.
    """
    _check_trackers(run)
    precision = system.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in DTYPES:
        raise UsageError(
            f"--mixed_precision {precision} (as accelerate is set) is not supported: use bf16, fp16 or no."
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # an earlier run of this process had another precision
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            log_with=run.report_to or None,
            # What the main process does alone (checkpoints, a cache of embeddings) takes its time.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
            project_config=ProjectConfiguration(
                project_dir=run.output_dir, logging_dir=os.path.join(run.output_dir, run.logging_dir)
            ),
        )
    except (ImportError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        if "precision" in reason or isinstance(error, ImportError):
            raise UsageError(f"--mixed_precision {precision} cannot be used here: {reason}") from None
        raise UsageError(
            f"accelerate cannot start ({reason}): check `accelerate config` and the environment variables it was "
            "launched with."
        ) from None
    _check_accelerator(accelerator, run)
    torch.backends.cuda.matmul.allow_tf32 = system.allow_tf32  # either way: an earlier run may have set it
    return accelerator


def _check_trackers(run):
    if unknown := set(run.report_to) - {"all", *LOGGER_TYPE_TO_CLASS}:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise UsageError(f"--report_to {min(unknown)}: there is no such tracker; none, all, or some of {known}.")
    if run.report_to and os.path.isfile(os.path.join(run.output_dir, run.logging_dir)):
        raise UsageError(f"--logging_dir {run.logging_dir} is a file: choose a folder.")


def _check_accelerator(accelerator, run):
    missing = set(run.report_to) - {"all"} - {str(tracker) for tracker in accelerator.log_with}
    if missing:
        raise UsageError(f"--report_to {min(missing)}: this tracker is not installed (pip install {min(missing)}).")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise UsageError(
            f"accelerate's {accelerator.distributed_type.value} is not supported: use plain data parallelism (one "
            "process a GPU); with LoRA roles a process needs little more memory than the teacher itself."
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        message = "--mixed_precision fp16 needs a GPU: use bf16 or no."
        if not run.dry_run:  # which may plan for another machine
            raise UsageError(message)
        logger.warning(f"{WOULD_STOP} {message}")


def _check_xformers(system):
    if not system.enable_xformers_memory_efficient_attention:
        return
    try:
        import xformers  # noqa: F401
    except ImportError:
        message = '--enable_xformers_memory_efficient_attention needs xformers: pip install "disback-diffusers[gpu]".'
        raise UsageError(message) from None
    if not torch.cuda.is_available():
        raise UsageError("--enable_xformers_memory_efficient_attention needs a CUDA GPU.")
