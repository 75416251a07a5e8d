# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--log_fd_every`: the Fréchet distance of the student's images from real ones, along the training."""

import math

import torch

from ..errors import NotFiniteError, UsageError
from ..evaluation.extractors import load_extractor
from ..evaluation.frechet import frechet_distance, statistics
from ..evaluation.images import features_of
from ..evaluation.judge import RETRIEVED, Judge
from ..evaluation.reference import saved_reference
from ..evaluation.sheets import to_pil
from ..models.embedded import EMBEDDED
from .batches import generator


FLAG = "--fd_reference"


def load_instruments(args, device):
    """Reference and extractor of `--fd_reference`.

    Raises:
        UsageError: no saved statistics, or an extractor that cannot be had here.
    """
    reference = saved_reference(args.fd_reference, FLAG)
    try:
        return reference, load_extractor(reference.extractor, device)
    except UsageError as error:
        raise UsageError(f"{FLAG} {args.fd_reference}: {error}") from None


class DistanceProbe:
    """FD of the averaged student, from the same noise at each call; with the embedded judge retrieval as well.

    Args:
        context (`Context`).
        reference (`Reference`), extractor (`Extractor`): as `load_instruments` returns them.
    """

    def __init__(self, context, reference, extractor):
        self.context, self.reference, self.extractor = context, reference, extractor
        self.every, bank = context.args.log_fd_every, context.batches.bank
        count = min(context.args.fd_images, len(bank))
        self.indices = [i * len(bank) // count for i in range(count)]  # spread evenly
        self.bucket = context.batches.buckets[0]
        self.noise = torch.randn(count, *self.bucket.latent_shape, generator=generator("fd"))
        self.text = None
        if extractor.name == EMBEDDED and count > RETRIEVED:
            self.judge = Judge()
            self.text = self.judge.text_features([bank.prompts[i] for i in self.indices])

    @torch.no_grad()
    def __call__(self):
        """`fd`, and `retrieval` (top-10) where there is one, by name; NaN where the images are not finite."""
        parts = torch.arange(len(self.indices)).split(self.context.args.train_batch_size)  # as memory was planned
        try:
            with self.context.student.averaged():
                features = torch.cat([self._features(part) for part in parts])
        except NotFiniteError:
            return {"fd": math.nan, **({} if self.text is None else {"retrieval": math.nan})}
        distance = frechet_distance(*statistics(features), self.reference.mean, self.reference.covariance)
        retrieval = {} if self.text is None else {"retrieval": self.judge.retrieval(features, self.text)}
        return {"fd": distance, **retrieval}

    def _features(self, part):
        device = self.context.accelerator.device
        conditioning = self.context.batches.bank.batch([self.indices[i] for i in part])
        conditioning = conditioning.to(device).told(self.bucket.added)
        with self.context.accelerator.autocast():
            latents = self.context.student(self.noise[part].to(device), conditioning)
        images = [to_pil(image) for image in self.context.teacher.decode(latents)]  # raises for what is not finite
        return features_of(images, self.extractor, self.reference.size)
