#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A UNet of random weights, narrower than the teacher's, for `--student full --student_unet FOLDER`.

python benchmarks/random_unet.py small-random-unet --channels 48 96
"""

import argparse

import torch
from diffusers import UNet2DConditionModel

from disback_diffusers.models.embedded import EMBEDDED, resolve


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--teacher", default=EMBEDDED, help="Folder or Hub id of a pipeline.")
    parser.add_argument("--channels", type=int, nargs="+", default=[48, 96], help="Channels of each block.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    config = UNet2DConditionModel.load_config(resolve(args.teacher), subfolder="unet")
    unet = UNet2DConditionModel.from_config({**config, "block_out_channels": args.channels})
    unet.save_pretrained(args.folder)
    print(f"{args.folder}: {unet.num_parameters() / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
