#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Every objective with and without the path, for the same number of forwards of the network.

    python benchmarks/objectives.py --output objectives.json --forwards 3000 --seeds 0 1 2 -- \\
        --config train_scripts/presets/demo.yaml

Everything after `--` is passed to train_disback_sd.py (or another --script). An update costs what --dry_run prints;
stage 1 and the teacher's pairs count too. So a costly objective makes fewer updates. The Fréchet distance is measured
four times on the way. A call that was stopped goes on where it was, and several may work on one --output at once.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from statistics import median

import diffusers
import torch
from convergence import run
from filelock import FileLock

from disback_diffusers.files import user_path
from disback_diffusers.training.command_line import parse_args as parse_settings
from disback_diffusers.training.objectives import OBJECTIVES


IMAGES = Path(__file__).parents[1] / "examples" / "data" / "noto_emoji_32.parquet"
REAL = f"--real_images {IMAGES}"
PAIRS = "--teacher_pairs 512 --teacher_pairs_steps 10"
ARMS = {
    "dmd": "",
    "dmd, floor 0.05": "--dmd_normalizer_floor 0.05",
    "dmd, vsd weight": "--gradient_weighting vsd",
    "dmd, decoupled guidance": "--guidance_rule decoupled",
    "sid, alpha 1": "--objective sid",
    "sid, alpha 1.2": "--objective sid --sid_alpha 1.2",
    "gan": f"--objective gan {REAL}",
    "gan, weights 0.03": f"--objective gan {REAL} --gan_weight 0.03 --discriminator_weight 0.03",
    "fdiv, js": f"--objective fdiv {REAL}",
    "fdiv, forward_kl": f"--objective fdiv {REAL} --divergence forward_kl",
    "asd": "--objective asd",
    "swiftbrush": "--gradient_weighting vsd --fake_guidance_scale 3 --guidance_max_timestep 999",
    "dmd_regression": f"--objective dmd_regression {PAIRS}",
    "dmd, warmup_pairs 50": f"--warmup_pairs 50 {PAIRS}",
    "dmd, 2 steps": "--student_steps 2",
    "dmd, 4 steps": "--student_steps 4",
}
PATHS = {"path": "", "no path": "--no_backtracking"}
MEASURED = 4  # times


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flags", nargs="*", help="After --.")
    parser.add_argument("--output", type=user_path, required=True)
    parser.add_argument("--script", default="train_disback_sd.py")
    parser.add_argument("--forwards", type=int, default=3000, help="Of the network, for each sample of a batch.")
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=f"{', '.join(ARMS)}."
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


def updates(words: list[str], budget: int) -> tuple[int, float]:
    """Updates of stage 2 that a budget of forwards allows, a multiple of `MEASURED`; and the forwards of one."""
    settings = parse_settings([*words, "--output_dir", "none"])
    objective, path = settings.objective, settings.path
    kind = OBJECTIVES[objective.objective]
    cost = kind.forwards(objective) + settings.student.rollout_forwards
    cost += (objective.fake_score_updates_per_step - 1) * kind.fake_score_forwards(objective)
    if not path.no_backtracking:
        budget -= 3 * path.degradation_steps  # the student forward, the target forward and backward
    if kind.needs_pairs or objective.warmup_pairs:
        guided = 1 + (objective.guidance_scale != 1)
        budget -= objective.teacher_pairs * objective.teacher_pairs_steps * guided / settings.data.train_batch_size
    budget -= 2 * objective.warmup_pairs
    return int(budget / cost) // MEASURED * MEASURED, cost


def write(output: Path, header: dict, name: str | None = None, rows: list | None = None) -> dict:
    """Add the rows of a run to the file, if there are any. Returns its content.

    Raises:
        ValueError: the file is of other flags.
    """
    with FileLock(f"{output}.lock"):
        record = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {**header, "runs": {}}
        if any(record[key] != header[key] for key in ("script", "flags", "forwards")):
            raise ValueError(f"{output} is of other flags, or another --script or --forwards: give another --output.")
        if name:
            record["runs"][name] = rows
            output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def print_table(record: dict) -> None:
    """FD at the end: the median of the seeds, and their range."""
    rows = {}
    for name, run_rows in record["runs"].items():
        arm, path, _ = name.split("; ")
        rows.setdefault((arm, path), []).append(run_rows[-1])
    print("| Objective | Path | Updates | FD, median of seeds | Range | Retrieval | Seeds |")
    print("|---|---|---|---|---|---|---|")
    for (arm, path), last in sorted(rows.items(), key=lambda item: median(row["fd"] for row in item[1])):
        fds, retrieval = [row["fd"] for row in last], median(row["retrieval"] for row in last)
        numbers = f"{last[0]['step']} | {median(fds):.3f} | {min(fds):.3f} to {max(fds):.3f} | {retrieval:.1%}"
        print(f"| {arm} | {path} | {numbers} | {len(last)} |")


def main() -> None:
    args = parse_args()
    header = {
        "script": args.script,
        "flags": args.flags,
        "forwards": args.forwards,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
    }
    for seed in args.seeds:
        for path in args.paths:
            for arm in args.arms:
                name = f"{arm}; {path}; seed {seed}"
                if name in write(args.output, header)["runs"]:
                    continue
                words = [*args.flags, *ARMS[arm].split(), *PATHS[path].split()]
                steps, cost = updates(words, args.forwards)
                print(f"{name}: {steps} updates of {cost:g} forwards", flush=True)
                with tempfile.TemporaryDirectory() as folder:
                    words += ["--max_train_steps", str(steps)]
                    rows = run(args.script, words, str(seed), steps // MEASURED, Path(folder))
                write(args.output, header, name, rows)
    print_table(write(args.output, header))


if __name__ == "__main__":
    main()
