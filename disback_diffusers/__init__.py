# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Distribution Backtracking Distillation (DisBack) for diffusers.

Public names are loaded when first used, so that `import disback_diffusers` imports neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:  # the same names as in _MODULE_OF, for editors and type checkers
    from .diffusion.losses import denoising_loss as denoising_loss
    from .diffusion.losses import distribution_matching_gradient as distribution_matching_gradient
    from .diffusion.noise import NoiseSchedule as NoiseSchedule
    from .diffusion.target_field import mismatch_degree as mismatch_degree
    from .diffusion.target_field import stable_target_score as stable_target_score
    from .errors import RunError as RunError
    from .errors import UsageError as UsageError
    from .models.roles import Roles as Roles
    from .pipelines import DisBackPipeline as DisBackPipeline
    from .training.arguments import DistillationArguments as DistillationArguments
    from .training.distill import distill as distill
    from .training.path import DegradationPath as DegradationPath

__version__ = "0.1.0"

_MODULE_OF = {
    "DegradationPath": ".training.path",
    "DisBackPipeline": ".pipelines",
    "DistillationArguments": ".training.arguments",
    "NoiseSchedule": ".diffusion.noise",
    "Roles": ".models.roles",
    "RunError": ".errors",
    "UsageError": ".errors",
    "denoising_loss": ".diffusion.losses",
    "distill": ".training.distill",
    "distribution_matching_gradient": ".diffusion.losses",
    "mismatch_degree": ".diffusion.target_field",
    "stable_target_score": ".diffusion.target_field",
}

# What diffusers looks up here when it loads a pipeline with an `EDMUNet2DModel`: the class, and the base it loads by.
_FOR_DIFFUSERS = {"EDMUNet2DModel": ".models.edm_unet", "ModelMixin": ".models.edm_unet"}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name):
    module = _MODULE_OF.get(name) or _FOR_DIFFUSERS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *__all__})
