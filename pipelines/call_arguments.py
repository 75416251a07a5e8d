# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the arguments of a stock call mean for a student: its timesteps, and arguments without effect."""

import math
import operator
from collections.abc import Sequence
from numbers import Integral, Real

from disback_diffusers.errors import UsageError


ONLY_WITH_GUIDANCE = "the student has learned guidance and makes no unconditional pass in which it could act"


def chosen_timesteps(
    choices: dict[int, list[int]],
    num_inference_steps: int | None,
    timesteps: int | Sequence[int] | None,
    default: int = 1,
) -> list[int]:
    """The timesteps of a call.

    Args:
        choices: The timesteps that the student was trained for, by number of steps.
        num_inference_steps, timesteps: Of the call.
        default: Number of steps where the call says nothing.

    Raises:
        UsageError: The student was not trained for this number of steps or these timesteps.
    """
    if timesteps is not None:
        wanted = _whole_numbers(timesteps)
        if wanted not in choices.values():
            trained = " or ".join(map(str, choices.values()))
            raise UsageError(f"timesteps={wanted}: the student was trained for timesteps={trained}.")
        if num_inference_steps not in (None, len(wanted)):
            raise UsageError(f"num_inference_steps={num_inference_steps} contradicts timesteps={wanted}.")
        return wanted
    steps = default if num_inference_steps is None else num_inference_steps
    if not isinstance(steps, Integral) or isinstance(steps, bool):
        raise UsageError(f"num_inference_steps={steps!r} must be a whole number.")
    if steps not in choices:
        *some, last = map(str, choices)
        trained = f"{', '.join(some)} or {last} steps" if some else "1 step"
        raise UsageError(f"num_inference_steps={steps}: the student was trained for {trained}.")
    return choices[steps]


def chosen_steps(num_inference_steps: int | None, timesteps: int | Sequence[int] | None, default: int) -> int:
    """The number of steps of a call, of a student that takes any number.

    Raises:
        UsageError: It is no whole number greater than 0, or there are timesteps.
    """
    if timesteps is not None:
        raise UsageError("timesteps: this student takes those of its scheduler; give num_inference_steps.")
    steps = default if num_inference_steps is None else num_inference_steps
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise UsageError(f"num_inference_steps={steps!r} must be a whole number greater than 0.")
    return steps


def _whole_numbers(timesteps):
    """A number, or a list, array or tensor of numbers, as a list."""
    try:
        if isinstance(timesteps, str):
            raise TypeError
        is_one = isinstance(timesteps, Integral) or getattr(timesteps, "ndim", 1) == 0
        return [operator.index(t) for t in ([timesteps] if is_one else timesteps)]
    except TypeError:
        raise UsageError(f"timesteps={timesteps!r} must be a list of whole numbers.") from None


def _check_guidance(name, value, most):
    if value is None:
        return
    if not isinstance(value, Real) or math.isnan(value):
        raise UsageError(f"{name}={value!r} must be a number.")
    if value > most:
        raise UsageError(f"{name}={value}: {ONLY_WITH_GUIDANCE}; leave it out, or give {most}.")


def without_effect(arguments: dict) -> dict:
    """Remove the arguments that cannot act on a student, after checking that their values have no effect.

    Args:
        arguments: Of a stock call, by name. Any of them may be missing.

    Returns:
        The other arguments.

    Raises:
        UsageError: Guidance, a negative prompt, sigmas, or another start or end.
    """
    rest = dict(arguments)
    for name, most in (("guidance_scale", 1), ("guidance_rescale", 0)):
        _check_guidance(name, rest.pop(name, None), most)
    for name in [name for name in rest if name.startswith("negative_")]:
        value = rest.pop(name)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int | None) and not item for item in values):  # "", None, (0, 0)
            raise UsageError(f"{name}: {ONLY_WITH_GUIDANCE}; leave it out.")
    if not isinstance(rest.pop("eta", None), Real | None):
        raise UsageError(f"eta={arguments['eta']!r} must be a number; it has no effect on a student.")
    if rest.pop("sigmas", None) is not None:
        raise UsageError("sigmas: the student was trained for timesteps; leave it out.")
    for name, nothing in (("denoising_start", 0), ("denoising_end", 1)):
        if rest.pop(name, None) not in (None, nothing):
            raise UsageError(f"{name}={arguments[name]!r}: the student makes the whole image; leave it out.")
    return rest
