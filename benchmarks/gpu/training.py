# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Memory and time of a training step, by the code that trains: presets, their `prepare` and `build`, and stage 2."""

import math
import re
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from disback_diffusers.training.backtracking import DistributionBacktracking
from disback_diffusers.training.build import DTYPES, build
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.objectives import DistributionMatching
from disback_diffusers.training.parallel import Replicated
from disback_diffusers.training.plan import Plan
from disback_diffusers.training.prepare import prepare
from disback_diffusers.training.switching import NodeWalk

from .lab import OUT_OF_MEMORY, LeftOut, card_gib, mark, memory, release, seconds_between, seconds_of
from .models import FAMILIES, write_configs
from .pixel_models import RandomEDM, write_pixel_configs


PRESETS = Path(__file__).parents[2] / "train_scripts" / "presets"
CUDA_GIB = 1  # what --dry_run allows for CUDA itself
SHOWN = """
    student lora_rank resolution train_batch_size gradient_accumulation_steps gradient_checkpointing mixed_precision
    allow_tf32 use_8bit_adam enable_xformers_memory_efficient_attention compile guidance_scale seed
""".split()
TINY = {
    "lora_rank": 2,
    "lora_target_modules": "attention",
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
}


def write_teacher(folder, preset, tiny):
    """Write the preset's teacher, and prompts where it has some: (its class, what else the command line needs)."""
    family, name = preset.split("_")
    if family == "edm":
        write_pixel_configs(folder / "teacher", name, tiny)
        return RandomEDM, {}
    write_configs(folder / "teacher", family, tiny)
    (folder / "prompts.txt").write_text("\n".join(f"picture number {i}" for i in range(64)), encoding="utf-8")
    words = {"prompt_dataset": folder / "prompts.txt", "pretrained_vae_model_name_or_path": ""}
    return FAMILIES[family], words | ({"resolution": 32} if tiny else {})


def checked(lab, preset, **changes):
    """A preset with a teacher of random weights, checked: (args, sources, accelerator, run folder).

    AdamW is taken where bitsandbytes is left out.
    """
    folder = Path(tempfile.mkdtemp(dir=lab.work))
    cls, own = write_teacher(folder, preset, tiny=lab.rehearse)
    changes |= {**own, "pretrained_teacher_model": folder / "teacher", "output_dir": folder / "run"}
    if "bitsandbytes" in lab.left_out:
        changes["use_8bit_adam"] = False
    if lab.rehearse:
        changes |= TINY
    words = [f"--{name}={value}" for name, value in changes.items()]
    args = parse_args(["--config", str(PRESETS / f"{preset}.yaml"), *words])
    cls.device = lab.device
    return args, *prepare(args, [cls])


def settings_of(args):
    return {name: args[name] for name in SHOWN}


def computed(args, sources, accelerator):
    """What --dry_run prints: memory, GiB by name ("together" is the sum), and the forwards that a sample takes."""
    rows = Plan(args, sources, DTYPES[accelerator.mixed_precision], accelerator.num_processes).rows()
    found = [re.match(r"(.+): ([\d,.]+) GiB", text) for topic, text in rows if topic == "memory"]
    work = re.search(r"of ([\d.]+) forwards", dict(rows)["stage 2"])
    return {match[1]: float(match[2].replace(",", "")) for match in found}, float(work[1])


# ---------------------------------------------------------------------------------------------------------------------


def check_step(metrics):
    """Raise a ValueError where a loss or the norm of a gradient is no number."""
    for name, value in metrics.items():
        if not math.isfinite(float(value)):
            raise ValueError(f"{name} is {float(value)}")


def measure_updates(lab, stage, batches, seconds, most=10):
    """Time and memory of whole updates of what has a `train_step`, with micro-batches from `batches`.

    The first one has one micro-batch only: it allocates what stays, and is not counted. Then follow at least two,
    until `seconds` are over.
    """
    least, most = lab.times(2), lab.times(most)
    marks, make = [], batches.make

    def noted(*args, **kwargs):
        marks.append(mark())
        return make(*args, **kwargs)

    batches.make = noted
    count, batches.micro_batches = batches.micro_batches, 1
    first = seconds_of(lambda: check_step(stage.train_step(1)))
    batches.micro_batches = count
    release()
    updates, batch_seconds, end = [], [], time.monotonic() + seconds
    while len(updates) < least or (time.monotonic() < end and len(updates) < most):
        marks.clear()
        updates.append(seconds_of(lambda: check_step(stage.train_step(len(updates) + 2))))
        batch_seconds += [seconds_between(a, b) for a, b in zip(marks, marks[1:])]
    return {
        "seconds_an_update": round(median(updates), 4),
        "seconds_a_batch": round(median(batch_seconds or updates), 4),
        "updates": [round(value, 4) for value in updates],
        "first_update_of_one_batch": round(first, 4),
        **memory(),
    }


def measure_training(lab, checked, seconds):
    """Build what a run has in memory and measure stage 2 against the teacher."""
    release()
    start = time.perf_counter()
    args, sources, accelerator, folder = checked
    parallel = Replicated(accelerator)
    networks, batches = build(args, sources, parallel, folder.folder)
    build_seconds = round(time.perf_counter() - start, 2)
    release()
    built = memory()["now_gib"]
    objective = DistributionMatching(networks.student, networks.fake, args.objective)
    stage = DistributionBacktracking(
        networks, batches, parallel, args.optimization, objective, NodeWalk.teacher_only()
    )
    stage.start()
    measured = measure_updates(lab, stage, batches, seconds)
    forward = round(forward_seconds(lab, stage), 4)
    return {**measured, "weights_gib": built, "build_seconds": build_seconds, "forward_seconds": forward}


@torch.no_grad()
def forward_seconds(lab, stage):
    """Of the teacher on one batch."""
    batch, teacher = stage.batches.make("forward", 1), stage.networks.teacher
    seconds = [
        seconds_of(lambda: teacher.output(batch.noise, batch.t, batch.conditions)) for _ in range(1 + lab.times(5))
    ]
    return median(seconds[1:])


def describe(measured):
    if measured == OUT_OF_MEMORY:
        return measured
    return f"{measured['peak_gib']:.2f} GiB, {measured['seconds_an_update']:.3f} s an update"


def preset(lab, name, seconds=20):
    """A part: one preset, its memory and time beside what --dry_run computes."""
    run = checked(lab, name)
    args, sources, accelerator, _ = run
    gib, forwards = computed(args, sources, accelerator)
    lab.report(settings={"preset": name, **settings_of(args)}, computed={"gib": gib, "forwards_a_sample": forwards})
    size, needed = card_gib(), gib["together"] + CUDA_GIB
    if size and needed > size:
        raise LeftOut(f"it needs {needed:.1f} GiB as computed, the card has {size:.1f}")
    measured = measure_training(lab, run, seconds)
    peak = measured["peak_gib"] / max(gib["together"], 0.01)  # less is not printed, of a tiny model
    work = measured["seconds_a_batch"] / measured["forward_seconds"]
    line = (
        f"peak {measured['peak_gib']:.2f} GiB, {peak:.2f} of the {gib['together']:.2f} computed; "
        f"{measured['seconds_an_update']:.2f} s an update, {measured['seconds_a_batch']:.3f} s a batch: "
        f"{work:.1f} forwards' time, {forwards:g} computed"
    )
    ratios = {"peak_gib": round(peak, 4), "forwards_a_sample": round(work / forwards, 4)}
    lab.report(line, measured=measured, measured_over_computed=ratios)
