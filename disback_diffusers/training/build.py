# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""From what was opened to networks and batches: the weights are loaded here."""

from contextlib import nullcontext
from pathlib import Path

import torch

from ..data.bank import PromptBank
from ..data.real_images import Samples, encode_images
from ..diffusion.times import training_times
from ..errors import UsageError, about
from ..models.adapter_files import fingerprint
from ..models.denoiser import Denoiser
from ..models.embedded import resolve
from ..models.families.base import Family
from ..models.lora_targets import with_layers
from ..models.roles import Roles
from .arguments import DistillationArguments
from .batches import BatchSource, RealData
from .networks import Networks
from .parallel import Replicated
from .reused_path import other_start
from .run_settings import SystemArguments
from .settings import DataArguments
from .sources import Sources
from .students import LoraStudent


DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def build(
    args: DistillationArguments, sources: Sources, parallel: Replicated, folder: Path
) -> tuple[Networks, BatchSource]:
    """Load the networks and encode the prompts.

    Args:
        folder (`Path`): the output folder, for a cache of embeddings.

    Raises:
        UsageError: weights that are damaged or do not fit; names the flag.
    """
    family, student = sources.family, sources.student
    # On the CPU until the text encoder is through; what does not fit is found before thousands of prompts are encoded.
    with about("--pretrained_teacher_model"):
        base = family.load_network(DTYPES[parallel.precision])
    roles = make_roles(family, base, args, student)
    with about("--student_unet" if args.student.student_unet else "--pretrained_teacher_model"):
        own = student.load_network(family)
    if parallel.is_main:
        other = args.teacher.pretrained_vae_model_name_or_path
        with about("--pretrained_vae_model_name_or_path" if other else "--pretrained_teacher_model"):
            family.prepare_decoder()

    encoder_id = f"{resolve(family.name)} {family.commit} {args.teacher.variant} {DTYPES[parallel.precision]}"
    if family.lora and family.lora.text:
        encoder_id += f" {fingerprint(family.lora.state)} {family.lora_strength}"
    batches = _make_batches(args.data, args.system.seed, sources, parallel, folder, encoder_id)
    for network in filter(None, (base, own)):
        network.to(parallel.device)
        speed_up(network, args.system)
    networks = make_networks(family, roles, student, own, parallel)
    _check_path(sources, networks)
    return networks, batches


def _check_path(sources, networks):
    path = sources.path
    if path is None:
        return
    with about("--degradation_path"):
        path.check_base(networks.roles)
    student = sources.student
    recorded = path.settings.get(student.fingerprint_key)  # none in the manifests of version 0.1
    if recorded and recorded != student.fingerprint(networks.student):
        raise UsageError(other_start(path.folder, student.start_setting))


def _make_batches(settings: DataArguments, seed, sources, parallel, folder, encoder_id) -> BatchSource:
    family, cache = sources.family, settings.cache_text_embeddings
    with parallel.main_first() if cache == "disk" else nullcontext():  # the others then find the file
        with about("--pretrained_teacher_model"):
            encode = family.load_encoder(parallel.device, DTYPES[parallel.precision])
        bank = PromptBank(
            sources.prompts,
            encode,
            cache=cache,
            folder=folder / "text_embeddings",
            encoder_id=encoder_id,
            show_progress=parallel.is_main,
            unconditional=settings.negative_prompt or "",
        )
    buckets, times = family.buckets(settings.resolution), training_times(family.schedule, settings.noise_levels)
    batches = BatchSource(bank, buckets, times, settings, seed, parallel)
    batches.show(sources.shown)
    if sources.real:
        batches.real = _real_data(sources, buckets, encode, parallel, folder, cache, encoder_id)
    if cache != "off":
        bank.encode = None  # the text encoder's memory is free again
    return batches


def _real_data(sources, buckets, encode, parallel, folder, cache, encoder_id) -> RealData:
    family, samples = sources.family, sources.real
    sizes = {bucket.shape: family.image_size(bucket.shape) for bucket in buckets}
    if not isinstance(samples, Samples):
        with parallel.main_first(), about("--real_images"):
            file = encode_images(
                samples,
                list(sizes.values()),
                lambda images: family.encode(images.to(parallel.device)),
                folder / "real_images",
                f"{encoder_id} {family.image_encoder}",
                show_progress=parallel.is_main,
            )
        samples = Samples(file, "--real_images")
    for shape, size in sizes.items():
        samples.check(size, shape, "--real_images")
    captions = sources.real.captions
    if captions is None:
        return RealData(samples, sizes, None)
    bank = PromptBank(captions, encode, cache, folder / "text_embeddings", encoder_id, show_progress=parallel.is_main)
    if cache != "off":
        bank.encode = None
    return RealData(samples, sizes, bank)


def make_roles(family: Family, base: torch.nn.Module, args: DistillationArguments, student: LoraStudent) -> Roles:
    """The adapters of a run: "target" and "fake" of one rank, so that a node's file fits both, and the student's."""
    roles, settings, seed = Roles(base), args.student, args.system.seed
    scores = ("target", "fake") if args.objective.trains_fake_score else ()
    targets = family.find_lora_targets(base, settings.lora_target_modules)
    with about("--init_lora"):
        targets = with_layers(base, targets, student.start_layers)
    with about("--lora_target_modules:"):
        for number, name in enumerate(scores):
            roles.add(name, settings.lora_rank, settings.lora_alpha, targets, seed=seed + number)
    start = next(
        (name for name in ("lcm_lora", "init_lora", "student_unet") if getattr(settings, name)), "lora_target_modules:"
    )
    with about(f"--{start}"):
        student.add_role(roles, targets, seed=seed + 2)
    return roles


def make_networks(
    family: Family, roles: Roles, student: LoraStudent, own: torch.nn.Module | None, parallel: Replicated
) -> Networks:
    """Denoisers of the base's roles and the student; `own` is the student's own network, where it has one."""
    where = {"device": parallel.device, "autocast": parallel.autocast}
    teacher, target, fake = (
        Denoiser(family, roles.network, family.schedule, roles, role, **where) for role in (None, "target", "fake")
    )
    made = student.make(family, roles, own, **where)
    return Networks(family, roles, teacher, target, fake, made)


def speed_up(network: torch.nn.Module, settings: SystemArguments) -> None:
    """Turn on what saves memory or time."""
    if settings.gradient_checkpointing:
        with about("--gradient_checkpointing:"):
            network.enable_gradient_checkpointing()
    if settings.enable_xformers_memory_efficient_attention:
        network.enable_xformers_memory_efficient_attention()
    if settings.compile:
        torch._dynamo.config.recompile_limit = 64  # a graph for each role, with and without gradients
        network.compile()
