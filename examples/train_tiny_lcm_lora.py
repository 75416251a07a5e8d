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
from diffusers import AutoencoderKL
from tiny_data import EMOJI, encode, load_pairs
from tqdm.auto import tqdm

from disback_diffusers.artifact.save import save_lora
from disback_diffusers.data.bank import PromptBank
from disback_diffusers.diffusion.guidance import guided_output
from disback_diffusers.files import user_path
from disback_diffusers.models.denoiser import ConsistencyDenoiser, Denoiser
from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.models.families import open_teacher
from disback_diffusers.models.roles import Roles


SOLVER_STEPS = 50
HUBER_C = 1e-3


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data", type=os.path.expanduser, default=str(EMOJI))
    parser.add_argument("--output_dir", type=user_path, default=Path("tiny-lcm-lora"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--guidance_scale", type=float, default=2.0, help="Of the teacher; it is learned.")
    parser.add_argument("--lora_rank", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class ConsistencyDistillation:
    """LCM's loss for an adapter on the teacher's own network."""

    def __init__(self, args):
        self.args = args
        family = open_teacher(EMBEDDED)
        images, names = load_pairs(args.train_data)
        self.latents = encode(AutoencoderKL.from_pretrained(resolve(EMBEDDED), subfolder="vae"), images)
        self.bank = PromptBank(names, family.load_encoder("cpu"), cache="memory")
        network, self.schedule = family.load_network(), family.schedule
        self.roles = Roles(network)
        targets = family.find_lora_targets(network, ["all"])
        self.roles.add("lcm", args.lora_rank, args.lora_rank, targets, seed=args.seed)
        self.teacher = Denoiser(family, network, self.schedule, self.roles)
        self.student = ConsistencyDenoiser(family, network, self.schedule, self.roles, "lcm")
        self.random = torch.Generator().manual_seed(args.seed)

    def loss(self):
        """Huber distance of the predictions at two neighbouring points of one solver trajectory."""
        n, skip = self.args.batch_size, self.schedule.num_train_timesteps // SOLVER_STEPS
        chosen = torch.randint(len(self.latents), (n,), generator=self.random)
        conditions, x0 = self.bank.batch(chosen.tolist()), self.latents[chosen]
        start = (torch.randint(SOLVER_STEPS, (n,), generator=self.random) + 1) * skip - 1
        end = (start - skip).clamp(min=0)
        x_start = self.schedule.add_noise(x0, torch.randn(x0.shape, generator=self.random), start)
        predicted = self.student.x0(x_start, start, conditions)
        with torch.no_grad():
            x_end = self.solver_step(x_start, start, end, conditions)
            target = self.student.x0(x_end, end, conditions)
        return ((predicted - target).square() + HUBER_C**2).sqrt().mean() - HUBER_C

    def solver_step(self, x_t, start, end, conditions):
        """One step of DDIM along the guided teacher."""
        empty = self.bank.empty.expand(len(x_t))
        output = guided_output(self.teacher.output, x_t, start, conditions, empty, self.args.guidance_scale)
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
    save_lora(args.output_dir, roles.state_dict("lcm"), roles.lora_config("lcm"))


if __name__ == "__main__":
    main()
