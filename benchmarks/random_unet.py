#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A UNet of random weights, narrower than the teacher's, for `--student full --student_unet FOLDER`.

    python benchmarks/random_unet.py small-random-unet --channels 48 96

With --regression_steps it first learns to make from noise what the teacher makes of the prompt from other noise: the
mean image of each prompt, so that its samples are blurred and vary little.
"""

import argparse
import os

import torch
from diffusers import UNet2DConditionModel
from tqdm.auto import tqdm

from disback_diffusers.data.bank import PromptBank
from disback_diffusers.data.prompts import load_prompts
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.models.families import StableDiffusion, open_teacher


TIMESTEP = 399  # the default of --conditioning_timestep
BATCH = 32


@torch.no_grad()
def teacher_samples(family, bank, shape, generator):
    """Latents (n, *shape), one a prompt, in 10 steps of guidance 2 with the teacher's own scheduler."""
    teacher, samples = Denoiser(family, family.load_network(), family.schedule), []
    for rows in torch.arange(len(bank)).split(256):
        z = torch.randn(len(rows), *shape, generator=generator)
        conditions, empty = bank.batch(rows.tolist()), bank.empty.expand(len(rows))
        samples.append(family.sample(teacher, z, conditions, empty, 10, 2.0))
    return torch.cat(samples)


def learn_means(unet, name, steps, seed):
    """Train `unet` by the mean squared error of its one step, on the embedded prompts."""
    family, generator = open_teacher(name, among=[StableDiffusion]), torch.Generator().manual_seed(seed)
    bank = PromptBank(load_prompts(EMBEDDED), family.load_encoder("cpu"), cache="memory")
    samples = teacher_samples(family, bank, family.buckets([])[0].shape, generator)
    student = Denoiser(family, unet, family.schedule)
    optimizer = torch.optim.Adam(unet.parameters(), 3e-4)
    for _ in tqdm(range(steps)):
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        z, t = torch.randn(samples[rows].shape, generator=generator), torch.full((BATCH,), TIMESTEP)
        loss = (student.x0(z, t, bank.batch(rows.tolist())) - samples[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"squared error of the last batch: {loss.item():.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--teacher", default=EMBEDDED, type=os.path.expanduser, help="Folder or Hub id of a pipeline.")
    parser.add_argument("--channels", type=int, nargs="+", default=[48, 96], help="Channels of each block.")
    parser.add_argument("--regression_steps", type=int, default=0, help="On the teacher's samples.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    config = UNet2DConditionModel.load_config(resolve(args.teacher), subfolder="unet")
    unet = UNet2DConditionModel.from_config({**config, "block_out_channels": args.channels})
    if args.regression_steps:
        learn_means(unet, args.teacher, args.regression_steps, args.seed)
    unet.save_pretrained(args.folder)
    print(f"{args.folder}: {unet.num_parameters() / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
