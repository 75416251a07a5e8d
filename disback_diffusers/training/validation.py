# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Samples on the way: fixed prompts and seeds, the teacher in many steps above the student in one."""

import logging
from pathlib import Path

import torch

from ..data.prompts import load_prompts
from ..evaluation.sheets import contact_sheet, to_pil
from ..files import atomic_write
from .batches import generator


logger = logging.getLogger(__name__)
TEACHER_STEPS = 25
NOT_SHOWN = (
    "Samples of the {} are not finite numbers and are not shown. With --mixed_precision fp16 the UNet may overflow: "
    "try bf16."
)


def validation_prompts(given, prompts, n=8):
    """The prompts to draw: those given, or those of one .txt file, or `n` spread evenly over the training prompts."""
    if len(given) == 1 and given[0].lower().endswith(".txt"):
        return load_prompts(given[0], flag="--validation_prompts")
    n = min(n, len(prompts))
    return given or [prompts[i * len(prompts) // n] for i in range(n)]


class Validator:
    """Draws `samples/step-<step>.png`.

    Args:
        context (`Context`).
        prompts (`list[str]`), conditioning (`Conditioning`): what to draw; the conditioning on the CPU.
        folder (`Path`): samples go here.
    """

    def __init__(self, context, prompts, conditioning, folder):
        self.context, self.prompts, self.conditioning, self.folder = context, prompts, conditioning, Path(folder)
        bucket = context.batches.buckets[0]
        self.conditioning = self.conditioning.told(bucket.added)
        self.empty = context.batches.bank.empty.to("cpu").told(bucket.added)
        shape = bucket.latent_shape
        self.noise = torch.cat(
            [torch.randn(1, *shape, generator=generator("validation", i)) for i in range(len(prompts))]
        )
        self._teacher_images = None

    @torch.no_grad()
    def student_images(self):
        """The averaged student's images (n, 3, H, W) in [0, 1]."""
        student, device = self.context.student, self.context.accelerator.device
        noise, conditioning = self.noise.to(device), self.conditioning.to(device)
        with self.context.accelerator.autocast(), student.averaged():
            rows = [student(noise[i : i + 1], conditioning[i : i + 1]) for i in range(len(noise))]
        return self.context.teacher.decode(torch.cat(rows))

    def card_samples(self):
        """Prompts and images (`list[PIL.Image.Image]`) for the model card: none where they cannot be shown."""
        images = self.student_images()
        if not images.isfinite().all():
            logger.warning(NOT_SHOWN.format("student"))
            return [], []
        return self.prompts, [to_pil(image) for image in images]

    @torch.no_grad()
    def teacher_images(self):
        """The teacher's, from the same noise, drawn once."""
        if self._teacher_images is None:
            context, device = self.context, self.context.accelerator.device
            noise, conditioning, empty = (x.to(device) for x in (self.noise, self.conditioning, self.empty))
            scale = context.args.guidance_scale
            latents = []
            with context.accelerator.autocast(), context.roles():
                for i in range(len(noise)):  # one by one, as the student: memory was planned for training alone
                    part = noise[i : i + 1], conditioning[i : i + 1], empty
                    latents.append(context.teacher.sample(context.roles.unet, *part, TEACHER_STEPS, scale))
            self._teacher_images = context.teacher.decode(torch.cat(latents))
        return self._teacher_images

    def draw(self, step):
        """Write the sheet of this step, of the rows that can be shown.

        Returns:
            `PIL.Image.Image`, or None where no row can.
        """
        scale = self.context.args.guidance_scale
        guidance = f", guidance {scale:g}" if scale != 1 else ""
        rows = {
            f"teacher, {TEACHER_STEPS} steps{guidance}": self.teacher_images(),
            f"student, 1 step, after {step} updates": self.student_images(),
        }
        for label in [label for label, images in rows.items() if not images.isfinite().all()]:
            logger.warning(NOT_SHOWN.format(label))
            del rows[label]
        if not rows:
            return None
        sheet = contact_sheet(rows, self.prompts)
        file = self.folder / f"step-{step}.png"
        atomic_write(file, lambda temporary: sheet.save(temporary, format="png"))
        return sheet
