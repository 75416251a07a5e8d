# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--dry_run`: what a run would do and cost, computed on the meta device, without loading weights."""

import torch
from diffusers import UNet2DConditionModel

from ..models.lcm_lora import LcmLora
from ..models.student_unet import StudentUNet
from .activations import saved_bytes
from .path import DegradationPath
from .setup import DTYPES, make_roles


GIB = 2**30


def print_plan(args, teacher, prompts, accelerator):
    """Print parameters by role, memory by part, size of the path and forwards of a run, and whether it fits."""
    for name, text in plan(args, teacher, len(prompts), accelerator):
        accelerator.print(f"{name:10} {text}")


def plan(args, teacher, n_prompts, accelerator):
    """The lines of the plan: (topic, text)."""
    dtype = DTYPES[accelerator.mixed_precision]
    unet, roles = meta_roles(args, teacher, dtype)
    lora = sum(parameter.numel() for parameter in roles.parameters("fake"))
    base = count_parameters(unet) - lora * len(roles.names)
    own = count_parameters(meta_student(args, teacher)) if args.student == "full" else 0
    buckets = teacher.buckets(args.resolution)
    rows = [
        ("teacher", f"{teacher.name}: {base / 1e6:,.1f} M parameters, {teacher.schedule.prediction_type}"),
        ("adapters", f"{', '.join(roles.names)}: rank {args.lora_rank}, {lora / 1e6:,.1f} M parameters each"),
        ("student", f"{_student_kind(args, own)}, timestep {args.conditioning_timestep}"),
        ("latents", ", ".join("x".join(map(str, bucket.latent_shape)) for bucket in buckets)),
        *_work(args, n_prompts, lora, accelerator.num_processes),
    ]
    memory = weights(args, base, lora, own, len(roles.names), dtype)
    if args.cache_text_embeddings == "off":
        memory["text encoders"] = teacher.count_text_parameters() * dtype.itemsize
    memory.update(activations(args, teacher, unet, roles, dtype))
    rows += [("memory", f"{part}: {size / GIB:,.2f} GiB") for part, size in memory.items() if size]
    total = sum(memory.values())
    rows.append(("memory", f"together: {total / GIB:,.2f} GiB on each GPU (computed, not measured)"))
    return [*rows, ("GPU", _verdict(total))]


def _work(args, n_prompts, lora, processes):
    given = args.degradation_path
    nodes = 0 if args.no_backtracking else len(DegradationPath.load(given)) - 1 if given else args.degradation_nodes
    guided = (args.guidance_scale != 1) + (args.fake_guidance_scale != 1)
    samples = args.train_batch_size * args.gradient_accumulation_steps * processes
    forwards = 5 + guided + args.proportion_later_steps + 2 * (args.fake_score_updates_per_step - 1)
    rows = [("prompts", f"{n_prompts:,}; {samples} samples an update")]
    if nodes or args.fake_score_init == "fit":
        length = f"reused from {given}" if given else f"{args.degradation_steps} updates"
        rows.append(("stage 1", f"{length}, {nodes or 1} nodes, {(nodes or 1) * lora * 4 / 2**20:,.0f} MiB on disk"))
    rows.append(("stage 2", f"{args.max_train_steps} updates of {forwards:g} UNet forwards' work a sample"))
    return rows


def _student_kind(args, own):
    return f"full, {args.student_unet}: {own / 1e6:,.1f} M parameters" if args.student_unet else args.student


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def meta_student(args, teacher):
    """The UNet of a full student on the meta device."""
    other = args.student_unet and StudentUNet(args.student_unet, teacher.unet_config, args.variant)
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(other.config if other else teacher.unet_config)


def meta_roles(args, teacher, dtype):
    """The teacher's UNet and its `Roles` on the meta device, all in the precision of their computations."""
    lcm_lora = LcmLora(args.lcm_lora, teacher.unet_config) if args.lcm_lora else None
    with torch.device("meta"):
        roles = make_roles(args, UNet2DConditionModel.from_config(teacher.unet_config), lcm_lora)
    return _cast(roles.unet, dtype), roles


def _cast(unet, dtype):
    for parameter in unet.parameters():
        parameter.data = parameter.data.to(dtype)
    return unet


def weights(args, base, lora, own, adapters, dtype):
    """Bytes of weights and of what training keeps for each of them.

    Parameters are given by number: of the base, of an adapter, and of a full student's own UNet (else 0).
    """
    trained = (own or lora) + lora
    return {
        "base, frozen": base * dtype.itemsize,
        "adapters": adapters * lora * 4,
        "student UNet": own * 4,
        "its copy in lower precision": own * dtype.itemsize if dtype.itemsize < 4 else 0,
        "moving average": (trained - lora) * 4,
        "gradients": trained * 4,
        "optimizers": trained * (2 if args.use_8bit_adam else 8),  # Adam's two moments
    }


def activations(args, teacher, unet, roles, dtype):
    """Bytes of activations at their peak: the student's graph waits while that of the fake score is worked off.

    Without checkpointing it is a lower bound: norms in float32 and casts within the adapters come on top on a GPU.
    """
    largest = max(teacher.buckets(args.resolution), key=lambda bucket: bucket.latent_shape[1] * bucket.latent_shape[2])
    inputs = teacher.meta_inputs(largest, args.train_batch_size, dtype)
    with roles("fake"):
        fake, fake_block = saved_bytes(unet, inputs, args.gradient_checkpointing)
    student, student_block = fake, fake_block
    if args.student == "full":
        own = _cast(meta_student(args, teacher), dtype)
        student, student_block = saved_bytes(own, inputs, args.gradient_checkpointing)
    return {"activations": student + fake + max(student_block, fake_block)}


def _verdict(total):
    if not torch.cuda.is_available():
        return "there is none here to compare with; CUDA itself takes about 1 GiB more"
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    fits = "fits" if total + GIB < size else "does NOT fit"
    return f"{fits} the {name} with {size / GIB:,.1f} GiB (1 GiB allowed for CUDA itself)"
