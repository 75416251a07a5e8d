#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Measure a one-step student, any diffusers pipeline, or a folder of images: FID, KID, precision, CLIP score, ...

    accelerate launch train_scripts/evaluate_disback.py my-one-step-model \\
        --protocol coco2014-256 --reference coco/val2014 --prompts captions.txt \\
        --clip_model openai/clip-vit-base-patch16 --output_dir evaluation

Draws one image a prompt into the output folder (again: only those that are missing), compares them with the reference,
and writes a table, results.json, a contact sheet and a line for the model card.
"""

import argparse
import math
import os
import sys

from disback_diffusers.errors import exit_code
from disback_diffusers.evaluation.protocols import PROTOCOLS, apply_protocol


def size(text):
    """ "512" or "832x1216" (width x height) to (width, height)."""
    width, _, height = text.partition("x")
    sizes = int(width), int(height or width)
    if min(sizes) < 1 or any(pixels % 8 for pixels in sizes):
        raise argparse.ArgumentTypeError(f"{text} must be multiples of 8, such as 1024 or 832x1216")
    return sizes


def whole(text):
    """A number of at least 1."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def scale(text):
    """A finite number of at least 0."""
    if not 0 <= float(text) < math.inf:
        raise ValueError
    return float(text)


def seed(text):
    """A whole number to which the number of an image can be added."""
    if not 0 <= int(text) < 2**48:
        raise ValueError
    return int(text)


def parse_args():
    protocols = "\n".join(f"  {name}: {protocol}" for name, protocol in PROTOCOLS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"protocols:\n{protocols}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    path = os.path.expanduser  # the shell leaves ~ in --flag=~/file
    add("model", type=path, help="Student, pipeline (folder or Hub id), 'embedded', or folder of images.")
    add("--base_model", type=path, help="Of a LoRA or UNet that does not name its own.")
    add("--variant", help="Weights variant of the pipeline or base model, such as fp16; by default a student's own.")
    add("--protocol", choices=PROTOCOLS, help="Sets what below is not given; see the end of this text.")
    add("--reference", type=path, help="Real images (folder, .parquet, Hub dataset), saved statistics, or 'embedded'.")
    add("--num_real_images", type=whole, help="Take the first so many of the reference.")
    add("--save_reference", type=path, help="Write statistics of the images measured here to this .safetensors file.")
    add(
        "--prompts",
        type=path,
        help="File, folder, Hub dataset (as --prompt_dataset), or 'embedded': an image of each.",
    )
    add("--caption_column", default="text", help="Column of the prompts.")
    add("--num_images", type=whole, help="Take the first so many prompts, or images.")
    add(
        "--feature_extractor",
        type=path,
        help="'inception' (default), 'embedded' (the emoji's judge), or a CLIP's folder or id.",
    )
    add("--clip_model", type=path, help="Measure the CLIP score, with this CLIP.")
    add("--eval_size", type=whole, help="Pixels every image's middle square is resized to. Default: the reference's.")
    add("--num_inference_steps", type=whole, help="1; of an LCM-LoRA student 1, 2, 4 or 8; of another pipeline any.")
    add("--guidance_scale", type=scale, help="Of a pipeline that is no student.")
    add("--resolution", type=size, help="Of the drawn images: 1024 or 832x1216 (width x height).")
    add("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    add("--batch_size", type=whole, default=8)
    add("--seed", type=seed, default=0, help="Image i is drawn from noise of seed + i.")
    add("--output_dir", type=path, default="evaluation")
    args = parser.parse_args()
    apply_protocol(args)
    return args


def main():
    args = parse_args()
    try:
        from disback_diffusers.evaluation.evaluate import evaluate  # slow to import: wrong flags are told before

        return exit_code(lambda: evaluate(args))
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on with what is missing in {args.output_dir}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
