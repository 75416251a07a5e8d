# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A whole run: what the training scripts call."""

import logging
import os
import sys
from pathlib import Path

import torch

from .. import hub
from ..errors import RunError, UsageError, one_line
from ..files import NO_ROOM
from ..models.adapter_files import base_fingerprint
from .arguments import PATH
from .artefact import save_artefact
from .backtracking import DistributionBacktracking
from .degradation import DegradationRecording
from .distance import DistanceProbe, load_instruments
from .mismatch import MismatchProbe
from .path import DegradationPath
from .plan import print_plan
from .setup import build, prepare
from .trainer import RESUME, Interrupted, Trainer


logger = logging.getLogger(__name__)
OUT_OF_MEMORY = (
    "out of GPU memory: try a smaller --train_batch_size with more --gradient_accumulation_steps, "
    "--gradient_checkpointing, --mixed_precision bf16, or a smaller --lora_rank."
)


def run_script(parse_args, teacher_class):
    """`main` of a training script: 0 when done, 2 for a wrong flag or file, 1 for a failed run, 130 if interrupted."""
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "matplotlib"):  # an HTTP client of each huggingface_hub
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        distill(parse_args(), teacher_class)
        return 0
    except UsageError as error:
        return _tell(f"error: {error}", 2)
    except Interrupted as error:
        return _tell(error, 130) if is_main else 130  # all processes stop alike
    except KeyboardInterrupt:
        return _tell(f"Stopped at once. {RESUME}", 130)
    except torch.OutOfMemoryError:
        return _tell(f"error: {OUT_OF_MEMORY}", 1)
    except RunError as error:
        return _tell(f"error: {error}", 1)
    except OSError as error:  # of a tracker's files; our own raise a RunError
        if error.errno not in NO_ROOM:
            raise
        return _tell(f"error: a file cannot be written ({error}): free space on that disk and resume.", 1)


def _tell(message, code):
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    return code


def resume(stage, checkpoint):
    """Let a stage go on from a checkpoint. Raises a UsageError where that is damaged or of other data."""
    try:
        stage.load(checkpoint.folder)
    except UsageError:
        raise
    except Exception as error:  # whatever torch, safetensors and json say to a damaged file
        reason = one_line(error)
        raise UsageError(
            f"{checkpoint.folder} is damaged ({reason}): delete it to go on from the one before."
        ) from None
    logger.info(f"Resumed from {checkpoint.folder}.")


def distill(args, teacher_class):
    """Stage 1, stage 2, and the artefact in `args.output_dir`.

    Args:
        args (`DistillationArguments`).
        teacher_class: such as `StableDiffusionTeacher`.

    Raises:
        UsageError, RunError: see there.
    """
    with hub.use_token(args.hub_token):
        teacher, prompts, accelerator, folder = prepare(args, teacher_class)
        if args.dry_run:
            print_plan(args, teacher, prompts, accelerator)
        else:
            _run(args, teacher, prompts, accelerator, folder)


def _run(args, teacher, prompts, accelerator, folder):
    repo_id = None
    if args.push_to_hub and accelerator.is_main_process:
        repo_id = hub.create_hub_repo(args.hub_model_id or Path(args.output_dir).resolve().name, args.hub_token)
    folder.open(args.settings())
    try:
        _train(*build(args, teacher, prompts, accelerator, folder), folder, repo_id)
    except BaseException:
        for tracker in accelerator.trackers:
            tracker.finish()
        raise
    finally:
        folder.close()
    accelerator.end_training()


def _train(context, validator, folder, repo_id):
    args, accelerator = context.args, context.accelerator
    trainer = Trainer(context, folder, validator, make_probes(context, validator))
    checkpoint = folder.find(args.resume_from_checkpoint)
    if accelerator.is_main_process:
        folder.clean()
        folder.rewind_log(*((checkpoint.stage_name, checkpoint.step) if checkpoint else ("degradation", 0)))

    path = stage_1(context, folder, trainer, checkpoint)
    backtracking = DistributionBacktracking(context, path if not args.no_backtracking else None)
    if checkpoint and checkpoint.stage_name == "backtracking":
        resume(backtracking, checkpoint)
    trainer.run(backtracking)

    if accelerator.is_main_process:
        save_artefact(context, folder.folder, validator, path, backtracking.walks, repo_id)
        logger.info(f"The student is in {folder.folder}.")
        if repo_id:
            hub.push_folder(folder.folder, repo_id, args.hub_token, with_path=args.push_degradation_path)


def make_probes(context, validator):
    """What measures along the training; with several processes the first alone, as it draws samples alone."""
    args, accelerator, probes = context.args, context.accelerator, []
    if accelerator.is_main_process and args.log_mismatch_every:
        probes.append(MismatchProbe(context, validator.conditioning))
    if accelerator.is_main_process and args.log_fd_every:
        probes.append(DistanceProbe(context, *load_instruments(args, accelerator.device)))
    return probes


def stage_1(context, folder, trainer, checkpoint):
    """The degradation path of this run, recorded, resumed or reused, or None; and the fake score's start.

    With `--no_backtracking --fake_score_init fit` only the path's end is recorded, for the fake score to start at.
    """
    args, roles = context.args, context.roles
    if args.degradation_path:
        path = DegradationPath.load(args.degradation_path, base=roles)
    elif args.no_backtracking and args.fake_score_init != "fit":
        path = None
    else:
        path = _record(context, folder, trainer, checkpoint)
    if args.fake_score_init in ("node", "fit"):
        path.load_into(roles, len(path) - 1, role="fake")
    elif args.fake_score_init == "random":
        roles.randomize("fake", seed=args.seed)
    return path


def _record(context, folder, trainer, checkpoint):
    where = folder.folder / "degradation"
    if checkpoint and checkpoint.stage_name == "backtracking":
        return DegradationPath.load(where, base=context.roles)
    settings = hub.without_paths(context.args.recorded(PATH))
    if context.args.student_unet:
        settings["student_unet"] = base_fingerprint(context.student.unet)  # untrained still
    path = DegradationPath(where, context.roles.fingerprint, settings)
    if checkpoint:
        path = DegradationPath.load(where, base=context.roles)
    stage = DegradationRecording(context, path, 1 if context.args.no_backtracking else context.args.degradation_nodes)
    if checkpoint:
        resume(stage, checkpoint)
    trainer.run(stage)
    context.accelerator.wait_for_everyone()
    return DegradationPath.load(where, base=context.roles)
