# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How far two scores agree on samples."""

import torch

from .noise import same_shape_floats


@torch.no_grad()
def score_agreement(x0: torch.Tensor, x0_fake: torch.Tensor, x0_target: torch.Tensor) -> dict[str, torch.Tensor]:
    """How the fake score and the target see noised samples, in numbers without a unit.

    Both scores point from a sample x0 to their own estimate of it.

    Args:
        x0 (`torch.Tensor` of shape `(n, ...)`): the student's samples.
        x0_fake, x0_target (`torch.Tensor` of shape `(n, ...)`): estimates from the same x_t.

    Returns:
        scalars by name. "relative_gap": mean |fake - target| / mean |target - x0|, 0 where they agree. "score_cosine":
        mean cosine of both directions, 1 where they agree. "score_ratio": length of the fake score's direction / that
        of the target's; below 1 where the fake score fits the samples better than the target does.

    Raises:
        ValueError: shapes differ.
    """
    x0, x0_fake, x0_target = (x.flatten(1) for x in same_shape_floats(x0=x0, x0_fake=x0_fake, x0_target=x0_target))
    to_fake, to_target = x0_fake - x0, x0_target - x0
    return {
        "relative_gap": (to_fake - to_target).abs().mean() / to_target.abs().mean(),
        "score_cosine": torch.nn.functional.cosine_similarity(to_fake, to_target, dim=1).mean(),
        "score_ratio": to_fake.norm(dim=1).mean() / to_target.norm(dim=1).mean(),
    }
