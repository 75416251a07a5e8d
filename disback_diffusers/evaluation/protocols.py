# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Named settings under which numbers can be compared with those of papers.

A protocol sets what was not given on the command line. The images and captions of COCO are not included: pass a folder
of its images as `--reference` and a file of its captions as `--prompts`.
"""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """`num_images` generated images are compared with `num_real_images` real ones, at `eval_size` pixels square."""

    eval_size: int
    num_real_images: int
    num_images: int
    source: str
    feature_extractor: str = "inception"

    def __str__(self) -> str:
        """A line for `--help`."""
        counts = f"{self.num_images:,} images with {self.num_real_images:,} real ones"
        return f"{counts} at {self.eval_size}x{self.eval_size}, {self.feature_extractor}; {self.source}"


PROTOCOLS = {
    "coco2014-512": Protocol(512, 50_000, 30_000, "the DisBack paper, App. A: COCO 2014"),
    "coco2014-256": Protocol(256, 30_000, 30_000, "the common zero-shot FID-30k: COCO 2014 validation"),
    "coco2014-sdxl": Protocol(512, 10_000, 10_000, "DMD2 for one-step SDXL: 10,000 captions of COCO 2014"),
}


def apply_protocol(args: argparse.Namespace) -> None:
    """Set the arguments that are None to those of `--protocol`, in place."""
    if args.protocol:
        for name, value in vars(PROTOCOLS[args.protocol]).items():
            if name != "source" and getattr(args, name) is None:
                setattr(args, name, value)
