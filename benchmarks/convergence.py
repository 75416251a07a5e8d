#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Fréchet distance and retrieval of a student of the embedded teacher during the training, for several seeds.

    python benchmarks/convergence.py --output convergence.json --seeds 0 1 2 --every 100 -- \\
        --config train_scripts/presets/demo.yaml

Everything after `--` is passed to train_disback_sd.py (or another --script). Prints one row per measurement and writes
JSON: updates, seconds (of both stages, without the measuring), FD and top-10 retrieval, by seed. With --baseline each
seed is also trained with --no_backtracking, and a table and a plot (speed_up.py) compare both.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import diffusers
import torch
from speed_up import plot, table

from disback_diffusers.evaluation.curves import add_seconds, read_log
from disback_diffusers.files import user_path


SCRIPTS = Path(__file__).parents[1] / "train_scripts"


def run(
    script: str, words: list[str], seed: str, every: int, folder: Path, reference: Path | str = "embedded"
) -> list[dict]:
    """Train with one seed in `folder`, and return the measurements, one every `every` updates."""
    words = [*words, "--output_dir", folder, "--seed", seed, "--validation_steps", 0, "--checkpointing_steps", 10**6]
    words += ["--resume_from_checkpoint", "latest", "--logging_steps", 1]
    words += ["--log_fd_every", every, "--fd_reference", reference]
    subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, words)], check=True)
    stages = read_log(folder)
    add_seconds(stages)
    rows = [
        {"step": r["step"], "seconds": round(r["seconds"], 1), "fd": round(r["fd"], 4)}
        | {name: r[name] for name in ("retrieval", "mismatch") if name in r}
        for r in stages["backtracking"]
        if "fd" in r
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def as_curves(runs: dict[str, list[dict]], seeds: list[str]) -> list[dict]:
    """The curves of speed_up.py, one per seed."""
    columns = (("updates", "step"), ("seconds", "seconds"), ("distance", "fd"))
    return [{axis: [row[key] for row in runs[seed]] for axis, key in columns} for seed in seeds]


def compare(record: dict, title: str, output: Path | None) -> None:
    """Table and plot of DisBack and its baseline."""
    both = [seed for seed in record["seeds"] if seed in record["baseline"]]
    runs = {"disback": as_curves(record["seeds"], both), "no_backtracking": as_curves(record["baseline"], both)}
    print(*table(runs, "no_backtracking"), sep="\n")
    if output:
        plot(runs, title, "Fréchet distance").savefig(output.with_suffix(".png"), dpi=110)


def main() -> None:
    own, words = sys.argv[1:], []
    if "--" in own:
        own, words = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=user_path)
    parser.add_argument("--script", default="train_disback_sd.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--baseline", action="store_true", help="Train each seed with --no_backtracking as well.")
    parser.add_argument("--title", default="Embedded teacher", help="Of the plot.")
    parser.add_argument("--keep", type=user_path, help="Keep the runs in this folder, one subfolder per seed.")
    args = parser.parse_args(own)
    record = {
        "flags": words,
        "script": args.script,
        "every": args.every,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "seeds": {},
    }
    if args.output and args.output.is_file():  # from an earlier call that was stopped or had fewer seeds
        before = json.loads(args.output.read_text(encoding="utf-8"))
        if any(before.get(name) != record[name] for name in ("flags", "script", "every")):
            parser.error(f"{args.output} is of other flags or another --script or --every: give another --output.")
        record = before
    with tempfile.TemporaryDirectory() as temporary:
        for seed in map(str, args.seeds):
            for kind, more in (("seeds", []), ("baseline", ["--no_backtracking"]))[: 1 + args.baseline]:
                if seed in record.setdefault(kind, {}):
                    continue
                folder = Path(args.keep or temporary) / f"{kind}-{seed}"
                record[kind][seed] = run(args.script, [*words, *more], seed, args.every, folder)
                if args.output:
                    args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if args.baseline:
        compare(record, args.title, args.output)
    last = [rows[-1] for rows in record["seeds"].values()]
    for name in ("fd", "retrieval"):
        values = [row[name] for row in last]
        print(f"{name}: median {median(values):.4f}, {min(values):.4f} to {max(values):.4f} of {len(values)} seeds")


if __name__ == "__main__":
    main()
