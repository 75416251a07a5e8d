#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Train a tiny pixel-space EDM teacher, for train_disback_edm.py to distill without a GPU or the Hub.

    python examples/train_tiny_edm_teacher.py --output_dir tiny-edm
    python examples/train_tiny_edm_teacher.py --output_dir tiny-edm-groups --conditional --unconditional_dir tiny-edm

It learns the 1,644 emoji at 32x32, with `--conditional` by their nine Unicode groups and an empty class.
`--train_data` takes other square images: a parquet file with the columns image and label. 4,000 updates take about an
hour on one core. `--init_from` continues from the weights of an earlier run, with or without labels.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import EDMEulerScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from tiny_data import EMOJI, load_labelled
from train_tiny_teacher import fit

from disback_diffusers.diffusion.noise import NoiseSchedule
from disback_diffusers.errors import UsageError, exit_code
from disback_diffusers.files import user_path
from disback_diffusers.models.edm_conversion import save
from disback_diffusers.models.edm_renaming import SIGMA_RANGE, Converted
from disback_diffusers.models.families import EDM, open_teacher


P_MEAN, P_STD = -0.8, 1.4  # of ln(sigma): noisier than EDM's own, as much of an emoji is decided by its outline
NO_LABEL_SHARE = 0.25
EMA_DECAY = 0.999
CLASS_EMBEDDING, TIME_BIAS = "class_embedding.weight", "time_embedding.linear_2.bias"


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--train_data",
        type=os.path.expanduser,
        default=str(EMOJI),
        help="Columns image and label (a datasets.ClassLabel); default: the emoji.",
    )
    parser.add_argument("--output_dir", type=user_path, default=Path("tiny-edm"), help="Default: %(default)s.")
    parser.add_argument("--conditional", action="store_true", help="Train on the labels too.")
    parser.add_argument(
        "--unconditional_dir",
        type=user_path,
        help="With --conditional: also save the teacher without labels, made from the empty class.",
    )
    parser.add_argument("--init_from", type=user_path, help="The folder of an earlier run.")
    parser.add_argument("--steps", type=positive, default=4000, help="Updates (default: %(default)s).")
    parser.add_argument("--batch_size", type=positive, default=32, help="Images per update (default: %(default)s).")
    parser.add_argument("--learning_rate", type=rate, default=1e-3, help="Peak learning rate (default: %(default)s).")
    parser.add_argument("--horizontal_flips", action="store_true", help="Flip half of the images.")
    parser.add_argument("--image_size", type=positive, help="Make the images smaller, by averaging pixels.")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="no",
        help="bf16 is twice as fast where the processor has instructions for it, many times slower where it has none.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.unconditional_dir and not args.conditional:
        parser.error("--unconditional_dir needs --conditional: without it, the teacher is unconditional already.")
    if args.unconditional_dir and args.unconditional_dir.absolute() == args.output_dir.absolute():
        parser.error("--unconditional_dir and --output_dir are the same: choose another folder for one of them.")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU; leave it out.")
    return args


def rate(text):
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def positive(text):
    if int(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return int(text)


def build_unet(size, classes):
    """1.3 M parameters, with attention at a quarter of the size."""
    return UNet2DModel(
        sample_size=size,
        block_out_channels=(24, 48, 88),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=22,
        norm_num_groups=8,
        num_class_embeds=classes + 1 if classes else None,
    )


def train(unet, schedule, images, labels, empty_class, args):
    """EDM's loss: mean squared error of the raw prediction, at noise levels drawn log-normally."""
    unet.train().to(args.device, memory_format=torch.channels_last)

    def loss_fn():
        chosen = torch.randint(len(images), (args.batch_size,))
        x0 = images[chosen].to(args.device)
        if args.horizontal_flips:
            x0 = torch.where(torch.rand(len(x0), 1, 1, 1, device=args.device) < 0.5, x0, x0.flip(-1))
        sigma = (P_MEAN + P_STD * torch.randn(len(x0))).exp().clamp(*schedule.time_range)
        noise = torch.randn_like(x0)
        given = None
        if empty_class is not None:
            dropped = torch.rand(len(x0)) < NO_LABEL_SHARE
            given = torch.where(dropped, empty_class, labels[chosen]).to(args.device)
        scaled = schedule.scale_input(schedule.add_noise(x0, noise, sigma), sigma)
        predicted = unet(scaled, (sigma.log() / 4).to(args.device), class_labels=given).sample
        target = schedule.prediction_target(x0, noise, sigma)
        return {"loss": (predicted.float() - target).square().mean()}

    ema = EMAModel(unet.parameters(), decay=EMA_DECAY)
    fit("edm unet", unet.parameters(), loss_fn, args.steps, args, args.learning_rate, ema=ema)


def initialize(unet, folder):
    """Load an earlier run's weights. Where it knew no labels, they start without effect.

    Raises:
        UsageError: there is no such folder, or its network is another one.
    """
    if not folder.is_dir():
        raise UsageError(f"--init_from {folder} is not a folder: give that of an earlier run.")
    teacher = open_teacher(str(folder), among=[EDM])
    state = teacher.load_network().state_dict()
    if unet.class_embedding is None and teacher.empty_class is not None:
        state = fold_class(state, teacher.empty_class)
    elif unet.class_embedding is not None and CLASS_EMBEDDING not in state:
        state[CLASS_EMBEDDING] = torch.zeros_like(unet.class_embedding.weight)
    found, wanted = ({name: value.shape for name, value in each.items()} for each in (state, unet.state_dict()))
    if found != wanted:
        raise UsageError(f"--init_from {folder} has another network or other classes: leave it out.")
    unet.load_state_dict(state)


def fold_class(state, label):
    """Weights without labels that act as this one label: its embedding goes into the time embedding's bias."""
    state = dict(state)
    state[TIME_BIAS] = state[TIME_BIAS] + state.pop(CLASS_EMBEDDING)[label]
    return state


def without_labels(teacher):
    """The same network under its empty class."""
    state = fold_class(teacher.state, teacher.empty_class)
    return Converted(UNet2DModel, {**teacher.config, "num_class_embeds": None}, state, teacher.scheduler)


def main(args):
    for folder in filter(None, (args.output_dir, args.unconditional_dir)):
        if folder.is_file():
            raise UsageError(f"{folder} is a file: choose a folder.")
        if (folder / "model_index.json").exists():
            raise UsageError(f"{folder} holds a teacher: choose another folder.")
    torch.manual_seed(args.seed)
    images, labels, names = load_labelled(args.train_data)
    size = args.image_size or images.shape[-1]
    if size > images.shape[-1]:
        raise UsageError(f"--image_size {size} is more than the {images.shape[-1]} of --train_data: it makes smaller.")
    if size % 4:
        raise UsageError(f"{size}x{size} images cannot be halved twice: give an --image_size that can.")
    if args.image_size:
        images = F.interpolate(images, (args.image_size, args.image_size), mode="area")
    classes = len(names) if args.conditional else 0
    unet = build_unet(images.shape[-1], classes)
    if args.init_from:
        initialize(unet, args.init_from)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    scheduler = EDMEulerScheduler(**SIGMA_RANGE, sigma_data=0.5, num_train_timesteps=18)
    empty_class = classes if classes else None
    train(unet, NoiseSchedule.from_scheduler(scheduler), images, labels, empty_class, args)
    state = {name: value.half().cpu().contiguous() for name, value in unet.state_dict().items()}
    teacher = Converted(UNet2DModel, dict(unet.config), state, scheduler, classes, empty_class, names)
    save(teacher, args.output_dir)
    if args.unconditional_dir:
        save(without_labels(teacher), args.unconditional_dir)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(parse_args())))
