# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What an option costs or saves: 8-bit Adam, xformers, compilation. The rest is as in the preset sd15_24gb."""

import torch

from disback_diffusers.pipelines import DisBackPipeline

from .inference import measure_images
from .lab import OUT_OF_MEMORY, release, seconds_of, unless_out_of_memory
from .models import components
from .training import checked, describe, measure_training, settings_of


PRESET = "sd15_24gb"
XFORMERS = "enable_xformers_memory_efficient_attention"


def variant(lab, name, **changes):
    """Measure a training step of the preset with these settings changed, and keep the result under this name."""
    run = checked(lab, PRESET, **changes)
    measured = unless_out_of_memory(lambda: measure_training(lab, run, 5))
    line = f"{name}: {describe(measured)}"
    if run[0].system.compile and measured != OUT_OF_MEMORY:
        line += f", compiled in {measured['first_update_of_one_batch']:.0f} s"
    lab.report(line, {name: settings_of(run[0])}, **{name: measured})


def optimizer_and_attention(lab):
    """A part: AdamW against its 8-bit form, with a LoRA and a full student; SDPA against xformers."""
    missing = {name: why for name, why in lab.left_out.items() if name in ("bitsandbytes", "xformers")}
    lab.report(not_measured=missing)
    for student in ("lora", "full"):
        variant(lab, f"{student}, AdamW, SDPA", student=student, use_8bit_adam=False)
        if "bitsandbytes" not in missing:
            variant(lab, f"{student}, 8-bit AdamW, SDPA", student=student, use_8bit_adam=True)
    if "xformers" not in missing:
        variant(lab, "lora, AdamW, xformers", student="lora", use_8bit_adam=False, **{XFORMERS: True})


# ---------------------------------------------------------------------------------------------------------------------


def compilation(lab):
    """A part: one-step inference of SD 1.5, then a training step, without and with compilation.

    A rehearsal compiles nothing, which would take it minutes.
    """
    if lab.rehearse:
        torch.compiler.set_stance("force_eager")
    release()
    parts = components("sd15", lab.device, torch.bfloat16, tiny=lab.rehearse)
    pipe = DisBackPipeline(**parts, conditioning_timestep=399)
    plain = measure_images(pipe, 4, lab.times(10))
    lab.report(**{"one step, plain": plain})
    pipe.unet.compile()
    first = seconds_of(lambda: measure_images(pipe, 4, 1))
    compiled = measure_images(pipe, 4, lab.times(10))
    ratio = compiled["images_a_second"] / plain["images_a_second"]
    lab.report(
        f"one step of SD 1.5: {ratio:.2f} times as many images a second compiled, after {first:.0f} s",
        **{"one step, compiled": {**compiled, "compilation_seconds": round(first, 2)}},
    )
    pipe = parts = None
    variant(lab, "training, plain")
    torch.compiler.reset()
    variant(lab, "training, compiled", compile=True)
