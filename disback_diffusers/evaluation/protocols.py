# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Named settings under which numbers can be compared with those of papers.

A protocol sets what was not given on the command line. The images and captions of COCO, and the images of
the others, are not included: pass a folder of images as `--reference` and a file of captions as `--prompts`.
"""

import argparse
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """`num_images` generated images are compared with `num_real_images` real ones, at `eval_size` pixels square.

    Where `eval_size` is None, nothing is resized. Where `num_real_images` is None, all real images count. The lowest
    of `repeats` results is reported.
    """

    eval_size: int | None
    num_real_images: int | None
    num_images: int
    source: str
    feature_extractor: str = "inception"
    repeats: int = 1

    def __str__(self) -> str:
        """A line for `--help`."""
        real = f"{self.num_real_images:,}" if self.num_real_images else "all"
        size = f"at {self.eval_size}x{self.eval_size}" if self.eval_size else "not resized"
        best = f", the lowest of {self.repeats}" if self.repeats > 1 else ""
        return (
            f"{self.num_images:,} images with {real} real ones {size}, {self.feature_extractor}{best}; {self.source}"
        )


PROTOCOLS = {
    "coco2014-512": Protocol(512, 50_000, 30_000, "the DisBack paper, App. A: COCO 2014"),
    "coco2014-256": Protocol(256, 30_000, 30_000, "the common zero-shot FID-30k: COCO 2014 validation"),
    "coco2014-sdxl": Protocol(512, 10_000, 10_000, "DMD2 for one-step SDXL: 10,000 captions of COCO 2014"),
    "edm-50k": Protocol(None, None, 50_000, "EDM (Karras et al., 2022): FFHQ, AFHQv2, CIFAR-10, ImageNet", repeats=3),
}


def resizes(args: argparse.Namespace) -> bool:
    """Whether images may be cropped and resized."""
    return not args.protocol or PROTOCOLS[args.protocol].eval_size is not None or args.eval_size is not None


def check_size(args: argparse.Namespace, generated: int, real: int) -> None:
    """Raise a UsageError where the sides of the images, in pixels, differ under a protocol that does not resize."""
    if not resizes(args) and generated != real:
        raise UsageError(
            f"--protocol {args.protocol} resizes nothing, but {args.model} has images of {generated} pixels and "
            f"--reference of {real}: give a reference of the same size, or --eval_size."
        )


def apply_protocol(args: argparse.Namespace) -> None:
    """Set the arguments that are None to those of `--protocol`, in place."""
    if args.protocol:
        for name, value in vars(PROTOCOLS[args.protocol]).items():
            if name != "source" and getattr(args, name) is None:
                setattr(args, name, value)
