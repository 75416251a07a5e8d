#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Train an LCM-LoRA of the embedded teacher by consistency distillation, for train_disback_lcm_lora.py to improve.

    python examples/train_tiny_lcm_lora.py --output_dir tiny-lcm-lora

A real, if tiny, LCM-LoRA to try things on without the Hub: latents of the 1,644 emoji, a DDIM solver of 50 steps, the
guided teacher's step as the way from one to the next, and the LoRA itself, without gradients, as its own target.
"""

import argparse
import os
from pathlib import Path

import torch
from tqdm.auto import tqdm
from train_tiny_teacher import HERE, encode, load_pairs

from disback_diffusers.diffusion.guidance import classifier_free_guidance
from disback_diffusers.files import user_path
from disback_diffusers.hub import save_student_lora
from disback_diffusers.data.bank import PromptBank
from disback_diffusers.models.embedded import EMBEDDED
from disback_diffusers.diffusion.consistency import boundary_scalings
from disback_diffusers.models.roles import ALL_TARGETS, Roles, present_targets
from disback_diffusers.models.families import open_teacher


SOLVER_STEPS = 50
HUBER_C = 1e-3


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data", type=os.path.expanduser, default=str(HERE / "data" / "noto_emoji_32.parquet"))
    parser.add_argument("--output_dir", type=user_path, default=Path("tiny-lcm-lora"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--guidance_scale", type=float, default=2.0, help="Of the teacher; it is learned.")
    parser.add_argument("--lora_rank", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class ConsistencyDistillation:
    """LCM's loss for an adapter on the teacher's own UNet."""

    def __init__(self, args):
        self.args = args
        self.teacher = open_teacher(EMBEDDED)
        self.schedule = self.teacher.schedule
        images, names = load_pairs(args.train_data)
        self.latents = encode(self.teacher.load_vae(), images)
        self.bank = PromptBank(names, self.teacher.load_encoder("cpu"), cache="memory")
        self.roles = Roles(self.teacher.load_unet())
        targets = present_targets(self.roles.network, ALL_TARGETS)
        self.roles.add("lcm", args.lora_rank, args.lora_rank, targets, seed=args.seed)
        self.random = torch.Generator().manual_seed(args.seed)

    def loss(self):
        """Huber distance of the answers at two neighbouring points of one solver trajectory."""
        n, skip = self.args.batch_size, self.schedule.num_train_timesteps // SOLVER_STEPS
        chosen = torch.randint(len(self.latents), (n,), generator=self.random)
        conditioning, x0 = self.bank.batch(chosen.tolist()), self.latents[chosen]
        start = (torch.randint(SOLVER_STEPS, (n,), generator=self.random) + 1) * skip - 1
        end = (start - skip).clamp(min=0)
        x_start = self.schedule.add_noise(x0, torch.randn(x0.shape, generator=self.random), start)
        answer = self.answer(x_start, start, conditioning)
        with torch.no_grad():
            x_end = self.solver_step(x_start, start, end, conditioning)
            target = self.answer(x_end, end, conditioning)
        return ((answer - target).square() + HUBER_C**2).sqrt().mean() - HUBER_C

    def answer(self, x_t, t, conditioning):
        """c_skip x_t + c_out x0, x0 as the adapter has it."""
        with self.roles("lcm"):
            x0 = self.schedule.to_x0(self.roles.network(x_t, t, **conditioning.kwargs()).sample, x_t, t)
        c_skip, c_out = (c.view(-1, 1, 1, 1) for c in boundary_scalings(t))
        return c_skip * x_t + c_out * x0

    def solver_step(self, x_t, start, end, conditioning):
        """One step of DDIM along the guided teacher."""
        both = self.bank.empty.expand(len(x_t)).cat(conditioning)
        with self.roles():
            output = self.roles.network(torch.cat([x_t, x_t]), torch.cat([start, start]), **both.kwargs()).sample
        output = classifier_free_guidance(*output.chunk(2), self.args.guidance_scale)
        x0, epsilon = self.schedule.to_x0(output, x_t, start), self.schedule.to_epsilon(output, x_t, start)
        return self.schedule.add_noise(x0, epsilon, end)


def main():
    args = parse_args()
    distillation = ConsistencyDistillation(args)
    roles = distillation.roles
    optimizer = torch.optim.AdamW(roles.parameters("lcm"), lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    for _ in (bar := tqdm(range(args.steps))):
        loss = distillation.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(roles.parameters("lcm"), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    save_student_lora(args.output_dir, roles.state_dict("lcm"), roles.lora_config("lcm"))


if __name__ == "__main__":
    main()
