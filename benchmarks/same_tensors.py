#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Check that a change of the code leaves the results of training as they were: seven short runs, tensor by tensor.

    python benchmarks/same_tensors.py before --output before.json      # with the old code
    python benchmarks/same_tensors.py after --against before.json      # with the new code

Each run distills a tiny teacher of random weights on one thread of the CPU. Kept are the runs' folders and, as JSON, a
hash of the tensors in each file that a run leaves: the student, the nodes of its path, and its last checkpoint. With
--against the hashes are compared. Where they differ so are the tensors, if the earlier call's folder still exists.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import diffusers
import peft
import torch
from safetensors.torch import load_file

from disback_diffusers.files import user_path


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for the tiny models

from tiny_models import save_sd, save_sdxl  # noqa: E402
from tiny_students import lora_student, save_kohya  # noqa: E402


SHARED = {
    "prompt_dataset": "prompts.txt", "degradation_steps": 6, "degradation_nodes": 3, "steps_per_node": 2,
    "node_switching": "fixed", "max_train_steps": 8, "lora_rank": 4, "train_batch_size": 2, "learning_rate": 1e-3,
    "fake_score_learning_rate": 1e-3, "degradation_learning_rate": 1e-3, "ema_decay": 0.5, "validation_steps": 0,
    "checkpointing_steps": 100, "seed": 3,
}  # fmt: skip
SD, SDXL, LCM = "train_disback_sd.py", "train_disback_sdxl.py", "train_disback_lcm_lora.py"
RUNS = {
    "sd_lora": (SD, {"guidance_scale": 2, "fake_guidance_scale": 1.5, "gradient_checkpointing": True}),
    "sd_full": (SD, {"student": "full", "gradient_weighting": "vsd", "fake_score_updates_per_step": 2}),
    "sdxl_lora_two_sizes": (SDXL, {"resolution": ["32", "48x32"], "guidance_scale": 2, "lr_scheduler": "cosine"}),
    "lcm_lora": (LCM, {"lcm_lora": "lcm", "proportion_later_steps": 0.5, "gradient_weighting": "uniform"}),
    "no_backtracking": (SD, {"no_backtracking": True, "fake_score_init": "fit"}),
    "accumulation": (SD, {"gradient_accumulation_steps": 2, "cache_text_embeddings": "memory"}),
    "two_processes": (SD, {"gradient_accumulation_steps": 2, "guidance_scale": 3}),
}
PROMPTS = "a red cat\na blue dog\na photo of the circle\nthe square\non a red square\n"
ALONE = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
}


def make_teachers(folder):
    save_sd(folder / "sd")
    save_sdxl(folder / "sdxl")
    save_kohya(folder / "lcm", lora_student(folder / "sd"))
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")


def train(folder, name):
    """One run, in `folder/name`."""
    script, settings = RUNS[name]
    settings = {**SHARED, "pretrained_teacher_model": "sdxl" if script == SDXL else "sd", **settings}
    words = [str(ROOT / "train_scripts" / script), "--output_dir", name]
    for flag, value in settings.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{flag}", *map(str, values)]
    launch = []
    if name == "two_processes":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([sys.executable, *launch, *words], cwd=folder, env={**os.environ, **ALONE}, check=True)


def tensors(run):
    """The tensors of a finished run, by file and by name."""
    files = [*run.glob("*.safetensors"), *run.glob("unet/*.safetensors"), *run.glob("degradation/*.safetensors")]
    last = max(run.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))
    files += last.glob("*.safetensors")
    return {file.relative_to(run).as_posix(): load_file(file) for file in sorted(files)}


def digest(tensors):
    """Of names and values. That of the file would vary: safetensors writes its metadata in random order."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def largest_difference(ours, theirs):
    if ours.keys() != theirs.keys():
        return math.inf
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def compare(name, ours, folder, before):
    """Print whether a run is the same, else its largest difference. Returns whether it is the same."""
    theirs, same = before["runs"][name], {key: digest(value) for key, value in ours.items()}
    if same == theirs:
        print(f"{name:20} the same, {len(same)} files")
        return True
    if missing := sorted(theirs.keys() ^ same.keys()):
        print(f"{name:20} other files: {', '.join(missing)}")
        return False
    other = [file for file in same if same[file] != theirs[file]]
    text = f"{len(other)} of {len(same)} files differ, first {other[0]}"
    earlier = Path(before.get("folder", ""), name)
    if "folder" in before and earlier.is_dir():
        kept = tensors(earlier)
        text += f", by {max(largest_difference(ours[file], kept[file]) for file in other):.2g} at most"
    print(f"{name:20} {text}")
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=user_path, help="A new folder for the runs.")
    parser.add_argument("--output", type=user_path, help="Write the hashes to this JSON file.")
    parser.add_argument("--against", type=user_path, help="The JSON file of an earlier call.")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    make_teachers(args.folder)
    before = json.loads(args.against.read_text(encoding="utf-8")) if args.against else None
    record = {
        "folder": str(args.folder),
        "hardware": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__},
        "runs": {},
    }
    same = True
    for name in args.runs:
        train(args.folder, name)
        found = tensors(args.folder / name)
        record["runs"][name] = {key: digest(value) for key, value in found.items()}
        if before:
            same = compare(name, found, args.folder, before) and same
    if not same:
        there = f"{before['hardware']}, {before['versions']}"
        print(f"Hashes can be compared only on one kind of CPU and with the same versions; there: {there}.")
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
