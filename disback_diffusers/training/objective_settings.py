# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The settings of the losses of stage 2. Steps count optimizer updates."""

from dataclasses import dataclass
from typing import Literal

from .flags import NOTHING, PATH, flag
from .settings import FEW_STEPS, GAN, MATCHING


@dataclass
class ObjectiveArguments:
    """The losses of stage 2."""

    objective: Literal["dmd", "sid", "gan", "fdiv", "asd", "dmd_regression", "guidance"] = flag(
        "dmd",
        "What the student minimises: dmd (Eq. 8), sid (score identity), gan (dmd and a discriminator of real images), "
        "fdiv (gan for another divergence than the reverse KL), asd (dmd with a fake score that is pushed away from "
        "the target), dmd_regression (dmd and pairs of the teacher), guidance (the guided teacher in one forward "
        "instead of two, in many steps).",
    )
    fake_score_init: Literal["node", "teacher", "fit", "random"] | None = flag(
        None,
        "Start of the fake score: last node (default), teacher (default without backtracking), fit (what the last "
        "node would be, for runs without a path), random.",
        objectives=FEW_STEPS,
    )
    fake_score_updates_per_step: int = flag(
        1, "Updates of the fake score per student update.", above=0, objectives=FEW_STEPS
    )
    gradient_weighting: Literal["dmd", "vsd", "uniform"] = flag(
        "dmd", "Weight of Eq. 8 over noise levels.", objectives=MATCHING
    )
    dmd_normalizer_floor: float = flag(
        1e-6,
        "The least that the weight dmd, mean|x0 - target's x0| of a sample, is divided by.",
        above=0,
        objectives=FEW_STEPS,
    )
    guidance_scale: float | None = flag(
        None,
        "Classifier-free guidance of the target; 1 is off. Default: 1 for pixel-space teachers, else 2; with "
        "--objective guidance that of the stock pipeline.",
        above=0,
    )
    fake_guidance_scale: float = flag(
        1.0, "Classifier-free guidance of the fake score; 1 is off.", above=0, objectives=FEW_STEPS
    )
    guidance_max_timestep: int | None = flag(
        None,
        "Guide only up to this timestep. Default: 600, as at all timesteps FD was worse; with --objective guidance "
        "none. Not for EDM teachers.",
        at_least=0,
    )
    guidance_rule: Literal["cap", "decoupled"] = flag(
        "cap",
        "cap: guide the target at the timestep of the gradient. decoupled: at a timestep of its own, up to the "
        "student's, with one more forward.",
        objectives=MATCHING,
    )
    warmup_pairs: int = flag(
        0,
        "Updates of the student before everything else, by regression on pairs of noise and the teacher's sample.",
        shapes=PATH,
        at_least=0,
        objectives=FEW_STEPS,
    )
    teacher_pairs: int = flag(
        1000, "How many such pairs are generated; also for dmd_regression and guidance.", shapes=PATH, above=0
    )
    teacher_pairs_steps: int = flag(25, "Steps in which the teacher generates them.", shapes=PATH, above=0)
    teacher_pairs_folder: str | None = flag(
        None, "Where they are; by default in the output folder. Runs may share them.", shapes=NOTHING, local=True
    )
    regression_weight: float = flag(
        0.25, "Weight of the regression in dmd_regression.", above=0, objectives=("dmd_regression",)
    )
    fake_score_warmup_steps: int = flag(
        0,
        "Updates at the start of stage 2 in which the fake score alone is trained.",
        at_least=0,
        objectives=FEW_STEPS,
    )
    sid_alpha: float = flag(1.0, "SiD's alpha; 1 to 1.2 in the paper.", at_least=0, objectives=("sid",))
    asd_gamma: float = flag(
        -0.75,
        "Weight of the fake score's distance to the target; ASD uses -0.75.",
        objectives=("asd",),
        above=-1,
        below=0,
    )
    gan_weight: float = flag(5e-3, "Weight of the student's GAN loss.", above=0, objectives=GAN)
    discriminator_weight: float = flag(
        1e-2, "Weight of the discriminator's loss in the fake score's.", above=0, objectives=GAN
    )
    gan_r1_weight: float = flag(
        0.0, "Weight of the discriminator's gradient penalty (approximate R1); 0 is off.", at_least=0, objectives=GAN
    )
    divergence: Literal["reverse_kl", "forward_kl", "jeffreys", "js"] = flag(
        "js", "The divergence that fdiv lowers.", objectives=("fdiv",)
    )

    @property
    def trains_fake_score(self) -> bool:
        """Whether there is a fake score."""
        return self.objective in FEW_STEPS
