# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Sample images on the way: fixed prompts and z, the teacher in many steps above the student in its few."""

import logging
from pathlib import Path

import torch
from PIL import Image

from ..errors import counted
from ..evaluation.sheets import contact_sheet, to_pil
from ..files import atomic_write
from ..models.batch import generator
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated
from .run_settings import RunArguments


logger = logging.getLogger(__name__)
NOT_SHOWN = (
    "Samples of the {} are not finite numbers and are not shown. With --mixed_precision fp16 the network may "
    "overflow: try bf16."
)


class Validator:
    """Writes `samples/step-<step>.png`. Every process generates a share of the images.

    Args:
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        prompts (`list[str]`): of the images; `batches` has their conditions.
        settings (`RunArguments`): how the teacher is sampled.
        guidance_scale (`float`): of the teacher.
        folder (`Path`): for the images.
    """

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        prompts: list[str],
        settings: RunArguments,
        guidance_scale: float,
        folder: Path,
    ):
        self.networks, self.batches, self.parallel, self.prompts = networks, batches, parallel, prompts
        self.steps, self.scheduler = settings.validation_inference_steps, settings.validation_scheduler
        self.guidance_scale, self.folder = guidance_scale, Path(folder)
        names = networks.family.class_names
        self.captions = [names[int(label)] for label in prompts] if names else prompts
        shape = batches.buckets[0].shape
        self.z = torch.cat([torch.randn(1, *shape, generator=generator("validation", i)) for i in range(len(prompts))])
        self._teacher_images = None

    @torch.no_grad()
    def student_images(self) -> torch.Tensor:
        """The averaged student's images `(n, 3, H, W)` in [0, 1]."""
        with self.networks.student.averaged():
            return self._images(self.networks.student)

    @torch.no_grad()
    def teacher_images(self) -> torch.Tensor:
        """The teacher's images of the same z `(n, 3, H, W)` in [0, 1], generated once."""
        if self._teacher_images is None:
            self._teacher_images = self._images(self._sample_teacher)
        return self._teacher_images

    def _sample_teacher(self, z, conditions):
        given = self.networks.teacher, z, conditions, self.batches.empty(len(z))
        return self.networks.family.sample(*given, self.steps, self.guidance_scale, self.scheduler)

    def _images(self, sample):
        """One by one: memory was planned for training alone."""

        def image(rows):
            conditions = self.batches.shown_conditions(rows)
            return self.networks.family.decode(sample(self.z[rows].to(self.parallel.device), conditions))

        return self.parallel.map(image, len(self.prompts), size=1)

    def card_samples(self) -> tuple[list[str], list[Image.Image]]:
        """Prompts and images for the model card; none where they cannot be shown."""
        images = self.student_images()
        if not images.isfinite().all():
            logger.warning(NOT_SHOWN.format("student"))
            return [], []
        return self.prompts, [to_pil(image) for image in images]

    def write_sheet(self, step: int) -> Image.Image | None:
        """Write the contact sheet of this step, of the rows that can be shown; the main process alone writes.

        Returns:
            the sheet, or None on the other processes and where no row can be shown.
        """
        steps = self.networks.student.sampler.steps
        guidance = f", guidance {self.guidance_scale:g}" if self.guidance_scale > 1 else ""
        rows = {
            f"teacher, {self.steps} steps{guidance}": self.teacher_images(),
            f"student, {counted(steps, 'step')}, after {step} updates": self.student_images(),
        }
        for label in [label for label, images in rows.items() if not images.isfinite().all()]:
            logger.warning(NOT_SHOWN.format(label))
            del rows[label]
        if not rows or not self.parallel.is_main:
            return None
        sheet = contact_sheet(rows, self.captions)
        file = self.folder / f"step-{step}.png"
        atomic_write(file, lambda temporary: sheet.save(temporary, format="png"))
        return sheet
