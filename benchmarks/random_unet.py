#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A UNet of random weights, narrower than the teacher's, for `--student full --student_unet FOLDER`.

    python benchmarks/random_unet.py small-random-unet --channels 48 96

With --regression_steps it first learns to answer noise with what the teacher draws of the prompt from other noise: the
mean image of each prompt, so that its samples are blurred and vary little.
"""

import argparse
import os

import torch
from diffusers import UNet2DConditionModel
from tqdm.auto import tqdm

from disback_diffusers.data.prompts import load_prompts
from disback_diffusers.models.conditioning import PromptBank
from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.models.teachers import StableDiffusionTeacher


TIMESTEP = 399  # the default of --conditioning_timestep
BATCH = 32


@torch.no_grad()
def teacher_samples(teacher, bank, shape, generator):
    """Latents (n, *shape), one a prompt, in 10 DDIM steps of guidance 2."""
    unet, samples = teacher.load_unet(), []
    for rows in torch.arange(len(bank)).split(256):
        noise = torch.randn(len(rows), *shape, generator=generator)
        conditioning, empty = bank.batch(rows.tolist()), bank.empty.expand(len(rows))
        samples.append(teacher.sample(unet, noise, conditioning, empty, 10, 2.0))
    return torch.cat(samples)


def learn_means(unet, name, steps, seed):
    """Train `unet` by the mean squared error of its one step, on the embedded prompts."""
    teacher, generator = StableDiffusionTeacher(name), torch.Generator().manual_seed(seed)
    bank = PromptBank(load_prompts(EMBEDDED), teacher.load_encoder("cpu"), cache="memory")
    samples = teacher_samples(teacher, bank, teacher.buckets(None)[0].latent_shape, generator)
    optimizer = torch.optim.Adam(unet.parameters(), 3e-4)
    for _ in tqdm(range(steps)):
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        noise, t = torch.randn(samples[rows].shape, generator=generator), torch.full((BATCH,), TIMESTEP)
        output = unet(noise, t, **bank.batch(rows.tolist()).kwargs()).sample
        loss = (teacher.schedule.to_x0(output, noise, t) - samples[rows]).square().mean()
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
