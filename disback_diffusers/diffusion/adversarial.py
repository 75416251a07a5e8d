# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Losses of a discriminator that tells real samples from the student's, both noised (Yin et al., 2024b, DMD2).

Its logit estimates log p(x_t) / q(x_t), with p the density of the real samples and q that of the student's.
"""

import torch
from torch.nn.functional import softplus


# How the density ratio r = p / q weights the gradient of a sample: r^2 f''(r) (Xu et al., 2025, f-distill).
DIVERGENCES = ("reverse_kl", "forward_kl", "jeffreys", "js")
LARGEST_LOG_RATIO = 4.0  # an estimate beyond this is the discriminator's confidence, not a ratio


def discriminator_loss(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of logits `(n,)` of real and of generated samples: a scalar, 2 ln 2 for logits of 0."""
    return softplus(-real).mean() + softplus(generated).mean()


def generator_loss(generated: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of the generator from logits `(n,)` of its samples: a scalar (Goodfellow et al., 2014)."""
    return softplus(-generated).mean()


def gradient_penalty(logits: torch.Tensor, shifted: torch.Tensor, distance: float) -> torch.Tensor:
    """Approximate R1: an estimate of the squared norm of the gradient of the logits, without a second derivative.

    For eps standard normal, E (D(x + distance eps) - D(x))^2 / distance^2 is |grad D(x)|^2 for small distances (Lin et
    al., 2025, APT; there without the division).

    Args:
        logits (`torch.Tensor` of shape `(n,)`): of real samples.
        shifted (`torch.Tensor` of shape `(n,)`): of the same samples, each shifted by `distance` times standard
            normal noise.
    """
    return ((shifted - logits) / distance).square().mean()


@torch.no_grad()
def divergence_weights(log_ratio: torch.Tensor, divergence: str) -> torch.Tensor:
    """The weights `(n,)` of the samples' gradients that make a distribution-matching gradient lower an f-divergence.

    Eq. 6 lowers the reverse KL divergence KL(q || p). The gradient of another f-divergence between p and q is the same
    with the weight r^2 f''(r), where r = p / q: 1 for the reverse KL, r for the forward KL, r + 1 for Jeffreys' (their
    sum), r / (r + 1) for Jensen and Shannon's (Xu et al., 2025, Table 1). The weights are divided by their mean.

    Args:
        log_ratio (`torch.Tensor` of shape `(n,)`): ln r, such as the logits of a discriminator; taken as at most 4 and
            at least -4.
        divergence (`str`): "reverse_kl", "forward_kl", "jeffreys" or "js".

    Raises:
        ValueError: another divergence.
    """
    log_ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    if divergence == "reverse_kl":
        return torch.ones_like(log_ratio)
    if divergence == "forward_kl":
        weights = log_ratio.exp()
    elif divergence == "jeffreys":
        weights = log_ratio.exp() + 1
    elif divergence == "js":
        weights = log_ratio.sigmoid()
    else:
        raise ValueError(f"divergence {divergence!r} is unknown; known: {', '.join(DIVERGENCES)}")
    return weights / weights.mean()
