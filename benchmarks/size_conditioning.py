#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How the size conditions move and blur the images of a tiny SDXL student, beside its teacher from the same noise.

    python benchmarks/size_conditioning.py outputs/tiny-sdxl-student

The teacher was shown emoji cropped from a wide image, which moves them, and emoji enlarged from 16x16, which blurs
them (see examples/train_tiny_sdxl_teacher.py). Prints, and writes to size_conditioning.json in the student's folder,
the horizontal centre of what is not white, in pixels from the middle, conditioned on a crop from the left or the right
end (in the training images 8 further right or left); and the mean absolute Laplacian conditioned on an original of
32x32 or 16x16 pixels.
"""

import argparse

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline
from emoji import Emoji

from disback_diffusers import DisBackPipeline
from disback_diffusers.artifact.layout import read_config
from disback_diffusers.files import user_path


SIZES = {
    "whole": {"original_size": (32, 32)},
    "crop from the left": {"original_size": (32, 48), "crops_coords_top_left": (0, 0)},
    "crop from the right": {"original_size": (32, 48), "crops_coords_top_left": (0, 16)},
    "enlarged from 16x16": {"original_size": (16, 16)},
}
STEPS = 10


def centre(images):
    """Mean horizontal place of what is not white, in pixels from the middle."""
    ink = (1 - images.amin(dim=1)).sum(dim=1)  # (n, w)
    place = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    return ((ink * place).sum(dim=1) / ink.sum(dim=1).clamp(min=1e-6)).mean().item()


def sharpness(images):
    """Mean absolute Laplacian of the brightness."""
    kernel = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    return F.conv2d(images.mean(dim=1, keepdim=True), kernel).abs().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=user_path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = read_config(args.student)
    guidance = config["method"]["guidance_scale"]
    teacher = DiffusionPipeline.from_pretrained(config["base_model"])
    teacher.scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing")
    models = {
        f"teacher, {STEPS} steps": (teacher, {"num_inference_steps": STEPS, "guidance_scale": guidance}),
        "student": (DisBackPipeline.from_pretrained(args.student), {}),
    }
    emoji, effects = Emoji(args.seed), []
    for model, (pipeline, settings) in models.items():
        for name, sizes in SIZES.items():
            images = emoji.measure(f"{model}: {name}", pipeline, target_size=(32, 32), **sizes, **settings)
            found = {"centre": centre(images), "sharpness": sharpness(images)}
            effects.append({"model": model, "conditioned on": name, **found})
            print(f"{'':44} centre {effects[-1]['centre']:+.2f}, sharpness {effects[-1]['sharpness']:.4f}")
    emoji.report(args.student / "size_conditioning.json", effects=effects, student=config)


if __name__ == "__main__":
    main()
