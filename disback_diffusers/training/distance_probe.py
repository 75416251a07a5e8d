# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--log_fd_every`: the Fréchet distance of the student's images from real ones, along the training."""

import math

import torch

from ..evaluation.extractors import Extractor
from ..evaluation.frechet import frechet_distance, statistics
from ..evaluation.images import features_of
from ..evaluation.judge import RETRIEVED, Judge
from ..evaluation.reference import Reference
from ..evaluation.sheets import to_pil
from ..models.batch import generator
from ..models.embedded import EMBEDDED
from .batches import BatchSource
from .networks import Networks
from .parallel import Replicated


class DistanceProbe:
    """FD of the averaged student, of the same z at each call; with the embedded judge retrieval as well.

    Every process generates a share of the images.

    Args:
        networks (`Networks`), batches (`BatchSource`), parallel (`Replicated`).
        reference (`Reference`), extractor (`Extractor`): the real images, and the features that are compared.
        every (`int`): updates from one measurement to the next.
        images (`int`): at most one for each training prompt.
    """

    def __init__(
        self,
        networks: Networks,
        batches: BatchSource,
        parallel: Replicated,
        reference: Reference,
        extractor: Extractor,
        every: int,
        images: int,
    ):
        self.networks, self.batches, self.parallel = networks, batches, parallel
        self.reference, self.extractor, self.every = reference, extractor, every
        bank = batches.bank
        count = min(images, len(bank)) if networks.family.uses_prompts else images
        self.prompts = [i * len(bank) // count for i in range(count)]  # spread evenly
        self.z = torch.randn(count, *batches.buckets[0].shape, generator=generator("fd"))
        self.text = None
        if extractor.name == EMBEDDED and count > RETRIEVED and networks.family.uses_prompts:
            self.judge = Judge()
            self.text = self.judge.text_features([bank.prompts[i] for i in self.prompts])

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """`fd`, and `retrieval` (top-10) where there is one, by name; NaN where the images are not finite."""
        with self.networks.student.averaged():
            features = self.parallel.map(self._features, len(self.prompts), self.batches.batch_size)
        if not features.isfinite().all():
            return {"fd": math.nan, **({} if self.text is None else {"retrieval": math.nan})}
        distance = frechet_distance(*statistics(features), self.reference.mean, self.reference.covariance)
        retrieval = {} if self.text is None else {"retrieval": self.judge.retrieval(features, self.text)}
        return {"fd": distance, **retrieval}

    def _features(self, rows):
        """Features (rows, d) of the images of these rows; NaN where one is not finite."""
        conditions = self.batches.conditions([self.prompts[i] for i in rows])
        x0 = self.networks.student(self.z[rows].to(self.parallel.device), conditions)
        images = self.networks.family.decode(x0)
        if not images.isfinite().all():
            return torch.full((len(rows), len(self.reference.mean)), math.nan)
        return features_of([to_pil(image) for image in images], self.extractor, self.reference.size)
