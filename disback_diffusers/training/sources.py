# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Everything that a run reads, opened once and checked before weights are loaded."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..artifact.layout import read_config
from ..data.prompts import load_prompts
from ..data.real_images import RealImages, Samples, open_real_images
from ..errors import UsageError, about
from ..evaluation.extractors import Extractor, load_extractor
from ..evaluation.reference import Reference, saved_reference
from ..files import CONFIG_NAME, LORA_NAME
from ..models.embedded import resolve
from ..models.families import open_teacher
from ..models.families.base import Family
from ..models.labels import format_labels, parse_labels
from ..models.lcm_lora import LcmLora, later_timesteps
from ..models.lora_file import LoraFile
from ..models.lora_start import LoraStart
from ..models.samplers import TeacherSteps
from ..models.student_unet import StudentUNet
from ..models.unet_difference import UNetDifference
from .arguments import DistillationArguments
from .path import DegradationPath
from .reused_path import open_path
from .settings import DataArguments, StudentArguments, TeacherArguments
from .students import FullStudent, LcmLoraStudent, LoraStudent
from .teacher_settings import fit_settings


SHOWN = 8  # validation prompts


@dataclass
class Sources:
    """What was opened.

    Attributes:
        family (`Family`): the teacher, its configs alone.
        prompts (`list[str]`): for training. shown (`list[str]`): for the sample images.
        long_prompts (`int`): how many training prompts are longer than what is read of them.
        student (`LoraStudent`): what the student starts as.
        path (`DegradationPath` or `None`): of `--degradation_path`.
        real (`RealImages`, `Samples` or `None`): of `--real_images`.
        reference (`Reference` or `None`), extractor (`Extractor` or `None`): of `--fd_reference`; the latter is there
            once `open_extractor` was called.
    """

    family: Family
    prompts: list[str]
    shown: list[str]
    long_prompts: int
    student: LoraStudent
    path: DegradationPath | None
    real: RealImages | Samples | None = None
    reference: Reference | None = None
    extractor: Extractor | None = None


def open_sources(args: DistillationArguments, families: Iterable[type[Family]] | None = None) -> Sources:
    """Open and check everything, and set what depends on the teacher and was left to its default.

    Args:
        args (`DistillationArguments`).
        families (`list[type[Family]]`, *optional*): those that the script is for; by default all.

    Raises:
        UsageError: a file or a setting that cannot work; names the flag.
        RunError: the Hub cannot be reached.
    """
    family = _open_family(args.teacher, families)
    fit_settings(args, family)
    if family.lora and family.lora.text and args.student.student == "full":
        raise UsageError(
            f"--teacher_lora {args.teacher.teacher_lora} adapts a text encoder too, which a full student would need "
            "beside its UNet: leave --student full out, or take a LoRA of the UNet alone."
        )
    student = _open_student(args.student, args.teacher.variant, family)
    if not args.objective.trains_fake_score:
        student.own_sampler = TeacherSteps(args.run.validation_inference_steps, args.run.validation_scheduler)
    prompts = _load_prompts(args.data, family)
    shown = prompts * SHOWN if prompts == [""] else validation_prompts(args.run.validation_prompts, prompts)
    if family.classes and (others := [label for label in shown if label not in prompts]):
        raise UsageError(f"--validation_prompts {others[0]}: give classes of this run, {args.data.class_labels}.")
    with about(f"--prompt_dataset {args.data.prompt_dataset}"):
        long_prompts = family.longer_than_read(prompts)
    with about("--validation_prompts"):
        family.longer_than_read(shown)  # checks that they can be tokenized
    path = open_path(args) if args.path.degradation_path else None
    reference = None
    if args.run.log_fd_every:
        if family.uses_prompts and len(prompts) == 1:
            raise UsageError("--log_fd_every needs at least 2 training prompts, as each gives one image.")
        reference = saved_reference(args.run.fd_reference, "--fd_reference")
    return Sources(family, prompts, shown, long_prompts, student, path, _open_real(args, family), reference)


def _open_real(args, family):
    settings = args.data
    if not settings.real_images:
        return None
    column = settings.caption_column if family.uses_prompts else "label"
    needs = "this teacher has no empty class, which could stand for a missing one" if not family.can_be_empty else None
    if args.objective.objective == "guidance":
        needs = "without prompts there is no guidance to learn"
    real = open_real_images(settings.real_images, column, needs, "--real_images")
    if not (family.uses_prompts or family.classes):
        real.captions = None
    for caption in (real.captions or ()) if family.classes else ():
        if not (caption.isascii() and caption.isdigit() and int(caption) < family.classes):
            raise UsageError(
                f"--real_images {settings.real_images} has the label {caption!r}, and the teacher {family.classes} "
                "classes, from 0 on."
            )
    return real


def open_extractor(sources: Sources, device: torch.device) -> None:
    """Load the network that the `--fd_reference` was made with, where there is one, into `sources`.

    Raises:
        UsageError: it cannot be loaded here.
    """
    if sources.reference:
        with about("--fd_reference was made with an extractor that cannot be used here:"):
            sources.extractor = load_extractor(sources.reference.extractor, device)


def _open_family(settings: TeacherArguments, families) -> Family:
    if settings.teacher_revision and os.path.isdir(resolve(settings.pretrained_teacher_model)):
        raise UsageError("--teacher_revision is for a teacher on the Hub, and this one is a folder: leave it out.")
    with about("--pretrained_teacher_model"):
        family = open_teacher(
            settings.pretrained_teacher_model, settings.teacher_revision, settings.variant, among=families
        )
    if settings.pretrained_vae_model_name_or_path:
        with about("--pretrained_vae_model_name_or_path"):
            family.use_vae(settings.pretrained_vae_model_name_or_path)
    if settings.teacher_lora:
        if "lcm_lora" not in family.supports:
            raise UsageError("--teacher_lora is not supported for this kind of teacher: leave it out.")
        with about("--teacher_lora"):
            lora = LoraFile(settings.teacher_lora, family.network_config, may_adapt_text=True)
            family.add_lora(lora, settings.teacher_lora_strength)
    return family


def _open_student(settings: StudentArguments, variant, family) -> LoraStudent:
    if settings.lcm_lora:
        with about("--lcm_lora"):
            _refuse_other_students(settings.lcm_lora)
            lcm_lora = LcmLora(settings.lcm_lora, family.network_config)
        first = settings.conditioning_timestep
        if settings.proportion_later_steps and not later_timesteps(family.scheduler_config, first):
            raise UsageError(
                f"--conditioning_timestep {first} is too early for an LCM in 2 or more steps: take a later one, or "
                "--proportion_later_steps 0 for a student of one step."
            )
        return LcmLoraStudent(settings, lcm_lora)
    lora_start = None
    if settings.init_lora:
        with about("--init_lora"):
            lora_start = LoraStart(settings.init_lora, family.network_config)
    unet = None
    if settings.student_unet:
        with about("--student_unet"):
            kind = family.schedule.prediction_type
            unet = StudentUNet(settings.student_unet, family.network_config, variant, kind)
            lora_start = UNetDifference(unet, family) if settings.student == "lora" else None
    if settings.student == "lora":
        return LoraStudent(settings, lora_start)
    return FullStudent(settings, unet, lora_start)


def _refuse_other_students(source):
    """A LoRA student's folder, or the file in it, looks like an LCM-LoRA's."""
    folder = Path(source).parent if Path(source).name == LORA_NAME else Path(source)
    if (folder / CONFIG_NAME).is_file() and not read_config(folder).get("method", {}).get("lcm_lora"):
        raise UsageError(f"{source} is a student of DisBack that did not start as an LCM-LoRA: take an LCM-LoRA.")


def _load_prompts(settings: DataArguments, family):
    """The training prompts; or labels as text; or, of an unconditional teacher, an empty one."""
    if settings.class_labels and not family.classes:
        raise UsageError("--class_labels: this teacher is not conditioned on classes: leave it out.")
    if not family.uses_prompts:
        if settings.prompt_dataset:
            raise UsageError("--prompt_dataset: this teacher is not conditioned on prompts: leave it out.")
        if not family.classes:
            return [""]
        with about("--class_labels"):
            wanted = "all" if settings.class_labels is None else settings.class_labels
            labels = parse_labels(wanted, family.classes)
        settings.class_labels = format_labels(labels)  # one spelling for the records
        return [str(label) for label in labels]
    if not settings.prompt_dataset:
        raise UsageError("--prompt_dataset is required.")
    return load_prompts(settings.prompt_dataset, settings.caption_column)


def validation_prompts(given: list[str], prompts: list[str]) -> list[str]:
    """The prompts of the sample images: those given, or of one .txt file, or 8 spread over the training prompts."""
    if len(given) == 1 and given[0].lower().endswith(".txt"):
        return load_prompts(given[0], flag="--validation_prompts")
    n = min(SHOWN, len(prompts))
    return given or [prompts[i * len(prompts) // n] for i in range(n)]
