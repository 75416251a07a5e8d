# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--dry_run`: what a run would do and cost, computed on the meta device, without loading weights."""

import torch
from diffusers import UNet2DConditionModel

from .setup import make_roles


def print_plan(args, teacher, prompts, accelerator):
    """Print parameters by role, memory of weights and optimizers, size of the path and forwards of a run."""
    for line in plan(args, teacher, len(prompts), accelerator):
        accelerator.print(line)


def plan(args, teacher, n_prompts, accelerator):
    """The lines of the plan. Memory of activations is not in it: it depends on the attention kernel."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(teacher.unet_config)
        base = sum(parameter.numel() for parameter in unet.parameters())
        roles = make_roles(args, unet)
    lora = sum(parameter.numel() for parameter in roles.parameters("fake"))
    base_bytes = 4 if accelerator.mixed_precision == "no" else 2
    trained = base if args.student == "full" else lora
    optimizer = 2 if args.use_8bit_adam else 8  # bytes a parameter of Adam's two moments
    memory = {
        "base, frozen": base * base_bytes,
        f"adapters ({', '.join(roles.names)})": len(roles.names) * lora * 4,
        "student UNet": base * 4 if args.student == "full" else 0,
        "EMA": trained * 4,
        "gradients": (trained + lora) * 4,
        "optimizers": (trained + lora) * optimizer,
    }
    nodes = 0 if args.no_backtracking else args.degradation_nodes
    guided = (args.guidance_scale != 1) + (args.fake_guidance_scale != 1)
    latents = ", ".join("x".join(map(str, bucket.latent_shape)) for bucket in teacher.buckets(args.resolution))
    samples = args.train_batch_size * args.gradient_accumulation_steps * accelerator.num_processes
    forwards = 5 + guided + 2 * (args.fake_score_updates_per_step - 1)
    rows = [
        ("teacher", f"{teacher.name}: {base / 1e6:,.1f} M parameters, {teacher.schedule.prediction_type}"),
        ("adapter", f"rank {args.lora_rank}: {lora / 1e6:,.1f} M parameters each"),
        ("student", f"{args.student}, timestep {args.conditioning_timestep}, {latents} latents"),
        ("prompts", f"{n_prompts:,}; {samples} samples an update"),
    ]
    if nodes or args.fake_score_init == "fit":
        reused = (
            f"reused from {args.degradation_path}" if args.degradation_path else f"{args.degradation_steps} updates"
        )
        rows.append(("stage 1", f"{reused}, {nodes or 1} nodes, {(nodes or 1) * lora * 4 / 2**20:,.0f} MiB on disk"))
    rows.append(("stage 2", f"{args.max_train_steps} updates of {forwards} UNet forwards a sample"))
    rows += [("memory", f"{part}: {size / 2**30:,.2f} GiB") for part, size in memory.items() if size]
    total = sum(memory.values()) / 2**30
    rows.append(("memory", f"together, without activations: {total:,.2f} GiB (computed, not measured)"))
    return [f"{name:10} {text}" for name, text in rows]
