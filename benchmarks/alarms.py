#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Do the alarms of a run tell broken trainings from healthy ones?

    python benchmarks/alarms.py --output alarms.json --seeds 0 1 2 3 4 -- --config train_scripts/presets/demo.yaml

Everything after `--` is passed to train_disback_sd.py. Healthy runs have these flags, others are broken on purpose.
Prints and writes the health of each run at every measurement, and its alarms. A call that was stopped goes on.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import torch

from disback_diffusers.evaluation.curves import read_log
from disback_diffusers.evaluation.health import BANDS, Monitor
from disback_diffusers.files import user_path


SCRIPT = Path(__file__).parents[1] / "train_scripts" / "train_disback_sd.py"
ARMS = {
    "healthy": "",
    "fake score's rate / 100": "--fake_score_learning_rate 1e-5",
    "guidance 20 everywhere": "--guidance_scale 20 --guidance_max_timestep 999",
    "one prompt": "--prompt_dataset {prompt}",
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flags", nargs="*", help="After --.")
    parser.add_argument("--output", type=user_path, required=True)
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=f"{', '.join(ARMS)}."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="The broken runs have the first alone.")
    parser.add_argument("--every", type=int, default=25, help="Updates from one measurement to the next.")
    return parser.parse_args()


def run(words: list[str], folder: Path) -> dict:
    """Train, and return the measurements; those of the scores are of one update each."""
    done = subprocess.run([sys.executable, str(SCRIPT), *words, "--output_dir", str(folder)])
    lines = [line for line in read_log(folder)["backtracking"] if "alarms" in line]
    names = ["step", *BANDS, "relative_gap", "score_cosine"]
    rows = [{name: line[name] for name in names if name in line} for line in lines]
    return {"exit": done.returncode, "rows": rows}


def write(output: Path, record: dict) -> None:
    """Write the runs so far; their alarms are those of the present ranges."""
    for found in record["runs"].values():
        monitor, alarms = Monitor(found["rows"][-1]["step"]), set()
        for row in found["rows"]:
            monitor.add({name: row[name] for name in BANDS if row.get(name) is not None})
            monitor.measure(row["step"])
            alarms |= set(monitor.alarms)
            row.pop("alarms", None)
        found["alarms"] = sorted(alarms)
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    args = parse_args()
    record = json.loads(args.output.read_text()) if args.output.is_file() else {"runs": {}}
    if record.get("flags", args.flags) != args.flags:
        raise SystemExit(f"{args.output} is of other flags: give another --output.")
    record |= {
        "flags": args.flags,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
    }
    for arm in args.arms:
        for seed in args.seeds if arm == "healthy" else args.seeds[:1]:
            name = f"{arm}; seed {seed}"
            if name in record["runs"]:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                prompt = Path(temporary) / "prompt.txt"
                prompt.write_text("red heart\n")
                words = [*args.flags, "--seed", str(seed), "--log_health_every", str(args.every)]
                words += ["--validation_steps", "0", "--checkpointing_steps", "1000000"]
                words += ARMS[arm].format(prompt=prompt).split()
                record["runs"][name] = run(words, Path(temporary) / "run")
            write(args.output, record)
    write(args.output, record)
    for name, found in record["runs"].items():
        print(f"{name}: {', '.join(found['alarms']) or 'no alarm'}")


if __name__ == "__main__":
    main()
