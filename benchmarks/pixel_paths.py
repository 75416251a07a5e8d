#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Fig. 1, Fig. 4 and Table 3 of the paper on images: DisBack with two paths, without a path, and only its start.

    python benchmarks/pixel_paths.py tiny-edm-16 --size 16 --output benchmarks/results/pixel_paths_16.json

Each student is a full copy of the EDM teacher. The runs are all combinations of --sigmas, --rates and --seeds:

- geometric: DisBack, 7 nodes at 3, 6, 12, 25, 50, 100 and 200 updates, each target kept for --stay updates
- uniform: DisBack, nodes at 50, 100, 150 and 200 updates as in the paper, each target kept for twice as long
- start: no path, but the fake score is fitted to the untrained student's samples first, as the last node is
- none: no path (Diff-Instruct); the fake score starts as the teacher

The distance is that of the embedded judge's features to the teacher's training images. A call that was stopped goes on
where it was. Tables are printed for each sigma and rate: the distance at the end, and how much sooner than without a
path its final distance is reached, in updates and in seconds with stage 1.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from pathlib import Path
from statistics import median

import diffusers
import torch
from convergence import as_curves, run
from datasets import load_dataset
from speed_up import plot, table

from disback_diffusers.diffusion.target_field import LEVELS, image_times, squared_mismatch
from disback_diffusers.evaluation.extractors import load_extractor
from disback_diffusers.evaluation.images import features_of
from disback_diffusers.evaluation.reference import Reference
from disback_diffusers.files import user_path
from disback_diffusers.models.batch import generator
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import EDM, open_teacher
from disback_diffusers.training.mismatch_probe import SAMPLES


EMOJI = Path(__file__).parents[1] / "examples" / "data" / "noto_emoji_32.parquet"
JUDGED_AT = 32  # pixels of a side
PATH = "--degradation_steps 200 --node_switching fixed --degradation_learning_rate 1e-3"
ARMS = {
    "geometric": f"{PATH} --degradation_nodes 7 --steps_per_node {{stay}}",
    "uniform": f"{PATH} --degradation_nodes 4 --node_spacing uniform --steps_per_node {{twice}}",
    "start": f"{PATH} --no_backtracking --fake_score_init fit",
    "none": "--no_backtracking",
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=user_path)
    parser.add_argument("--size", type=int, default=32, help="Pixels of a side of the teacher's images.")
    parser.add_argument("--real", type=user_path, default=EMOJI, help="A parquet file with a column image.")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--sigmas", type=float, nargs="+", default=[80.0, 2.5])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 5e-5], help="Of the student.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--stay", type=int, default=10, help="Updates at each target of the geometric path.")
    parser.add_argument("--fake_rate", type=float, default=1e-3, help="Learning rate of the fake score.")
    parser.add_argument("--fake_updates", type=int, default=3, help="Of the fake score for one of the student.")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--images", type=int, default=500, help="For the distance.")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="Further flags of the training script.")
    parser.add_argument("--output", type=user_path, required=True)
    return parser.parse_args()


def write_reference(args, file: Path) -> None:
    """Statistics of the real images at the teacher's size, enlarged as the student's images are."""
    data = load_dataset("parquet", data_files=str(args.real), split="train")
    images = [image.convert("RGB").reduce(image.width // args.size) for image in data["image"]]
    extractor = load_extractor("embedded", "cpu")
    Reference.of(features_of(images, extractor, JUDGED_AT), extractor.name, JUDGED_AT).save(file)


def mismatch_of_real_images(args) -> float:
    """The mismatch degree of real images, measured as `--log_mismatch_every` does that of students."""
    family = open_teacher(str(args.teacher), among=[EDM])
    teacher = Denoiser(family, family.load_network(), family.schedule)
    data = load_dataset("parquet", data_files=str(args.real), split="train")
    chosen = data[torch.linspace(0, len(data) - 1, SAMPLES).long().tolist()]["image"]
    pixels = [list(image.convert("RGB").reduce(image.width // args.size).tobytes()) for image in chosen]
    x0 = torch.tensor(pixels).view(SAMPLES, args.size, args.size, 3).permute(0, 3, 1, 2) / 127.5 - 1
    _, noise = torch.randn(2, *x0.shape, generator=generator("mismatch"))
    times = image_times(family.schedule, x0.shape[1:]).repeat(SAMPLES // len(LEVELS))
    x_t = family.schedule.add_noise(x0, noise, times)
    with torch.no_grad():
        score = teacher.score(x_t, times, Conditions({}, rows=SAMPLES))
    squared = squared_mismatch(score, x_t, times, x0, family.schedule).view(-1, len(LEVELS)).mean(dim=0)
    return squared.clamp(min=0).sqrt().mean().item()


def words_of(args, arm: str, sigma: float, rate: float) -> list[str]:
    """The flags of a run."""
    words = ["--pretrained_teacher_model", str(args.teacher), "--student", "full", "--gradient_weighting", "dmd"]
    words += ["--train_batch_size", args.batch_size, "--max_train_steps", args.updates, "--ema_decay", 0.98]
    words += ["--learning_rate", rate, "--fake_score_learning_rate", args.fake_rate]
    words += ["--fake_score_updates_per_step", args.fake_updates, "--conditioning_sigma", sigma]
    words += ["--validation_inference_steps", 2, "--fd_images", args.images]
    return [*words, *ARMS[arm].format(stay=args.stay, twice=2 * args.stay).split(), *args.more]


def name_of(arm, sigma, rate):
    return f"{arm}, sigma {sigma:g}, rate {rate:g}"


def along(runs: dict[str, dict[str, list]], seeds: list[str], key: str) -> list[str]:
    """Lines of a Markdown table: the medians of the seeds along the training."""
    updates = [row["step"] for row in next(iter(runs.values()))[seeds[0]]]
    lines = [f"| updates | {' | '.join(map(str, updates))} |", "| --- " * (len(updates) + 1) + "|"]
    for arm, of_seeds in runs.items():
        medians = [median(row[key] for row in rows) for rows in zip(*(of_seeds[seed] for seed in seeds), strict=True)]
        lines.append(f"| {arm} | {' | '.join(f'{value:.4g}' for value in medians)} |")
    return lines


def report(record: dict, args) -> None:
    """Tables and a plot for each sigma and rate, of the seeds of which all runs are there."""
    for sigma, rate in itertools.product(args.sigmas, args.rates):
        runs = {arm: record["runs"].get(name_of(arm, sigma, rate), {}) for arm in args.arms}
        seeds = [seed for seed in map(str, args.seeds) if all(seed in of_seeds for of_seeds in runs.values())]
        if "none" not in runs or not seeds:
            continue
        curves = {arm: as_curves(of_seeds, seeds) for arm, of_seeds in runs.items()}
        title = f"sigma {sigma:g}, learning rate {rate:g}"
        print(f"\n{title}, {len(seeds)} seeds\n", *along(runs, seeds, "fd"), "", *table(curves, "none"), sep="\n")
        if "--log_mismatch_every" in args.more:
            print("", *along(runs, seeds, "mismatch"), f"real images: {record['mismatch of real images']}", sep="\n")
        name = f"{args.output.stem}_{sigma:g}_{rate:g}.png"
        plot(curves, title, "Fréchet distance").savefig(args.output.with_name(name), dpi=110)


def main() -> None:
    args = parse_args()
    names = ("size", "updates", "every", "stay", "fake_rate", "fake_updates", "batch_size", "images", "more")
    settings = {name: getattr(args, name) for name in names}
    record = {
        "teacher": args.teacher.name,
        "settings": settings,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "runs": {},
    }
    if args.output.is_file():
        before = json.loads(args.output.read_text(encoding="utf-8"))
        if before["settings"] != settings:
            raise SystemExit(f"{args.output} is of other settings: give another --output.")
        record = before
    os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory() as temporary:
        reference = Path(temporary) / "reference.safetensors"
        write_reference(args, reference)
        for seed, sigma, rate, arm in itertools.product(args.seeds, args.sigmas, args.rates, args.arms):
            of_seeds = record["runs"].setdefault(name_of(arm, sigma, rate), {})
            if str(seed) in of_seeds:
                continue
            print(f"\n{name_of(arm, sigma, rate)}, seed {seed}", flush=True)
            words, folder = words_of(args, arm, sigma, rate), Path(temporary) / f"{arm}-{sigma}-{rate}-{seed}"
            of_seeds[str(seed)] = run("train_disback_edm.py", words, str(seed), args.every, folder, reference)
            args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if "--log_mismatch_every" in args.more and "mismatch of real images" not in record:
        record["mismatch of real images"] = mismatch_of_real_images(args)
        args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    report(record, args)


if __name__ == "__main__":
    main()
