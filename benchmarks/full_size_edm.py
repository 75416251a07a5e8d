#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The paper's pixel-space teachers at full size, with random weights: the memory --dry_run computes, and one update.

    python benchmarks/full_size_edm.py ffhq64 imagenet64 lsun256 --output full_size_edm.json

The update runs on the CPU in float32 with one sample: it shows that the shapes fit, and nothing about speed on a GPU.
lsun256 needs 14 GiB of memory and about half an hour of a CPU core.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
from gpu.pixel_models import TEACHERS

from disback_diffusers.files import user_path
from disback_diffusers.models.edm_conversion import save
from disback_diffusers.models.edm_renaming import Converted
from disback_diffusers.training.build import DTYPES
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.distill import distill
from disback_diffusers.training.plan import Plan
from disback_diffusers.training.prepare import prepare


PRESETS = Path(__file__).parents[1] / "train_scripts" / "presets"
ONE_UPDATE = {
    "train_batch_size": 1, "max_train_steps": 1, "mixed_precision": "no", "validation_steps": 0, "logging_steps": 1,
    "checkpointing_steps": 1000, "validation_inference_steps": 2, "no_backtracking": True, "node_switching": "fixed",
    "fake_score_init": "random", "gradient_checkpointing": True,
}  # fmt: skip


def write_teacher(name: str, folder: Path) -> None:
    """A teacher's folder with random weights."""
    network_class, config, scheduler, classes, empty = TEACHERS[name]
    torch.manual_seed(0)
    network = network_class.from_config(config)
    folder.mkdir()
    save(Converted(network_class, dict(network.config), network.state_dict(), scheduler, classes, empty), folder)


def words_of(name: str, folder: Path) -> list[str]:
    """The command line of its preset."""
    config = PRESETS / f"edm_{name}.yaml"
    return ["--config", str(config), "--pretrained_teacher_model", str(folder / name), "--output_dir", str(folder)]


def plan(name: str, folder: Path) -> list[str]:
    """What --dry_run prints for the preset."""
    args = parse_args([*words_of(name, folder), "--dry_run"])
    sources, accelerator, _ = prepare(args)
    rows = Plan(args, sources, DTYPES[accelerator.mixed_precision], accelerator.num_processes).rows()
    prefix = f"{sources.family.name}: "
    return [f"{topic}: {text.removeprefix(prefix)}" for topic, text in rows if topic != "GPU"]


def update(name: str, folder: Path) -> dict:
    """One update of stage 2 with the preset's student and optimizers, in this process."""
    args = parse_args(words_of(name, folder))
    for group in vars(args).values():
        for key in ONE_UPDATE.keys() & vars(group).keys():
            setattr(group, key, ONE_UPDATE[key])
    args.path.steps_per_node = "auto"
    folder = distill(args)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    seconds = {line["stage"]: round(line["seconds_per_step"], 1) for line in lines}
    loss = {key: value for key, value in lines[-1].items() if "loss" in key or key == "gap"}
    return {"seconds": seconds, **loss, "peak memory of the process, GiB": round(peak, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+", choices=TEACHERS)
    parser.add_argument("--output", type=user_path, default=Path("full_size_edm.json"))
    parser.add_argument("--update_in", help=argparse.SUPPRESS)  # the folder of the child process
    args = parser.parse_args()
    if args.update_in:
        print(json.dumps(update(args.teachers[0], Path(args.update_in))))
        return
    record = {
        "how": "memory computed by --dry_run; one update on the CPU, float32, one sample, gradient checkpointing",
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "teachers": json.loads(args.output.read_text())["teachers"] if args.output.is_file() else {},
    }
    for name in args.teachers:
        with tempfile.TemporaryDirectory() as folder:
            write_teacher(name, Path(folder, name))
            rows = plan(name, Path(folder))
            child = [sys.executable, __file__, name, "--update_in", folder]
            run = subprocess.run(
                child, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, check=True, stdout=-1, text=True
            )
            record["teachers"][name] = {"plan": rows, "update": json.loads(run.stdout.splitlines()[-1])}
        args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(record["teachers"][name], indent=2))


if __name__ == "__main__":
    main()
