# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Images a second: a student in one step, its teacher in 50 with guidance, from the prompt to the decoded image."""

from statistics import median

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from disback_diffusers.pipelines import DisBackPipeline, DisBackXLPipeline

from .lab import OUT_OF_MEMORY, memory, release, seconds_of, unless_out_of_memory
from .models import components


PIPELINES = {
    "sdxl": (StableDiffusionXLPipeline, DisBackXLPipeline),
    "sd15": (StableDiffusionPipeline, DisBackPipeline),
}
GUIDANCE = {"sdxl": 5.0, "sd15": 7.5}  # the pipelines' own defaults
STEPS = 50
BATCHES = (1, 4)


def generate(pipe, n, **kwargs):
    """Generate n images; raises a ValueError unless all their pixels are numbers."""
    images = pipe(["a photo of a red cat"] * n, output_type="pt", **kwargs).images
    if not images.isfinite().all():
        raise ValueError("an image has pixels that are no numbers")


def measure_images(pipe, n, times, warm_up=None, **kwargs):
    """Images a second in batches of n, by the median of some calls after one with the arguments `warm_up`."""
    pipe.set_progress_bar_config(disable=True)
    generate(pipe, n, **{**kwargs, **(warm_up or {})})
    release()
    seconds = median(seconds_of(lambda: generate(pipe, n, **kwargs)) for _ in range(times))
    return {"images_a_second": round(n / seconds, 4), "seconds_a_batch": round(seconds, 4), **memory()}


def compare(lab, teacher, student, n, steps, guidance):
    """One step of the student and `steps` of the teacher, of which two calls are enough, as they take seconds."""
    one = measure_images(student, n, lab.times(10))
    few = {"num_inference_steps": 1}
    many = measure_images(teacher, n, lab.times(2), few, num_inference_steps=steps, guidance_scale=guidance)
    ratio = one["images_a_second"] / many["images_a_second"]
    return {"student, 1 step": one, f"teacher, {steps} steps": many, "ratio": round(ratio, 2)}


def inference(lab):
    """A part: SDXL at 1024x1024 and SD 1.5 at 512x512, in bf16."""
    steps = 2 if lab.rehearse else STEPS
    lab.report(settings={"dtype": "bfloat16", "teacher_steps": steps, "guidance_scale": GUIDANCE})
    for family, (teacher_class, student_class) in PIPELINES.items():
        release()
        parts = components(family, lab.device, torch.bfloat16, tiny=lab.rehearse)
        pipes, found = (teacher_class(**parts), student_class(**parts, conditioning_timestep=399)), {}
        for n in BATCHES:
            pair = unless_out_of_memory(lambda n=n, p=pipes, g=GUIDANCE[family]: compare(lab, *p, n, steps, g))
            found[f"batch {n}"] = pair
            lab.report(f"{family}, batch {n}: {describe(pair, steps)}", **{family: found})
        del parts, pipes


def describe(pair, steps):
    if pair == OUT_OF_MEMORY:
        return pair
    one, many = (pair[name]["images_a_second"] for name in ("student, 1 step", f"teacher, {steps} steps"))
    return f"{one:.2f} images a second in 1 step, {many:.3f} in {steps}"
