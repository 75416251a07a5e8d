#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Evaluate a one-step student, any diffusers pipeline, or a folder of images: FID, KID, precision, CLIP score, ...

    accelerate launch train_scripts/evaluate_disback.py my-one-step-model \\
        --protocol coco2014-256 --reference coco/val2014 --prompts captions.txt \\
        --clip_model openai/clip-vit-base-patch16 --output_dir evaluation

Generates one image per prompt into the output folder and compares them with the reference. Images that exist already
are not generated again. Prints a table and a line for the model card; writes results.json and a contact sheet.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from disback_diffusers.errors import exit_code
from disback_diffusers.evaluation.protocols import PROTOCOLS, apply_protocol


def size(text: str) -> tuple[int, int]:
    """ "512" or "832x1216" (width x height, in pixels) to (width, height)."""
    width, _, height = text.partition("x")
    sizes = int(width), int(height or width)
    if min(sizes) < 1 or any(pixels % 8 for pixels in sizes):
        raise ValueError
    return sizes


def checked(read: Callable, valid: Callable, expected: str) -> Callable:
    """A `type` of argparse: takes what `read` makes of the text if it is `valid`, and names what is expected."""

    def take(text: str):
        with suppress(ValueError):
            if valid(value := read(text)):
                return value
        raise argparse.ArgumentTypeError(f"must be {expected}, not {text}")

    return take


resolution = checked(size, bool, "multiples of 8, such as 1024 or 832x1216")
whole = checked(int, lambda number: number >= 1, "a whole number greater than 0")
scale = checked(float, lambda number: 0 <= number < math.inf, "a number of at least 0")
seed = checked(
    int, lambda number: 0 <= number < 2**48, "a whole number from 0 to 2^48 - 1"
)  # an image's index is added


def parse_args() -> argparse.Namespace:
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
    add("--base_model", type=path, help="Base model of a LoRA or UNet that does not name its own.")
    add("--variant", help="Weights variant of the pipeline or base model, such as fp16. A student records its own.")
    add("--protocol", choices=PROTOCOLS, help="Sets the options below that are not given; see the end of this text.")
    add("--reference", type=path, help="Real images (folder, .parquet, Hub dataset), saved statistics, or 'embedded'.")
    add("--num_real_images", type=whole, help="Use only the first N images of the reference.")
    add("--save_reference", type=path, help="Save the statistics of the measured images to this .safetensors file.")
    add(
        "--prompts",
        type=path,
        help="One image per prompt. File, folder, Hub dataset (as --prompt_dataset), or 'embedded'. For a class-"
        "conditional model: class labels, by default each class in turn.",
    )
    add("--caption_column", default="text", help="Column of the prompts.")
    add(
        "--num_images", type=whole, help="Use only the first N prompts, or images; for pixel-space models, generate N."
    )
    add("--repeats", type=whole, help="Generate N sets with different seeds, and report the lowest Fréchet distance.")
    add(
        "--feature_extractor",
        type=path,
        help="'inception' (default), 'embedded' (the emoji's judge), or a CLIP's folder or id.",
    )
    add("--clip_model", type=path, help="Measure the CLIP score with this CLIP.")
    add(
        "--eval_size",
        type=whole,
        help="Side in pixels to resize the middle square of all images to. Default: that of the reference.",
    )
    add(
        "--num_inference_steps", type=whole, help="Students: 1. LCM-LoRA students: 1, 2, 4 or 8. Other pipelines: any."
    )
    add(
        "--sampler",
        choices=["heun", "pipeline"],
        help="For an EDM teacher. heun (default): --num_inference_steps steps of two evaluations each. pipeline: the "
        "sampler of diffusers, for a consistency model.",
    )
    add("--guidance_scale", type=scale, help="Only for models that are not students.")
    add("--resolution", type=resolution, help="Size of the generated images: 1024 or 832x1216 (width x height).")
    add("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    add("--batch_size", type=whole, default=8)
    add("--seed", type=seed, default=0, help="Image i is generated with seed + i.")
    add("--output_dir", type=path, default="evaluation")
    args = parser.parse_args()
    apply_protocol(args)
    args.repeats = args.repeats or 1
    return args


def main() -> int:
    args = parse_args()
    try:
        from disback_diffusers.evaluation.evaluate import evaluate  # slow to import: wrong flags are reported before

        return exit_code(lambda: evaluate(args))
    except KeyboardInterrupt:
        print(f"Stopped. The same command generates what is missing in {args.output_dir}.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
