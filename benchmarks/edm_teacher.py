#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Fréchet distance of an EDM teacher, by Heun's method in several numbers of evaluations (NFE), and of its student.

    python benchmarks/edm_teacher.py examples/tiny_edm/unconditional --nfe 9 11 17 35 79 --student my-student \\
        --output edm_unconditional.json

The features are those of the embedded judge. The real images are those that the teacher was trained on, reduced to
its size. A class-conditional teacher generates as many images of each class as there are real ones. Also writes a
picture: real images and the samples of each model, made from the same noise.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import diffusers
import torch
from datasets import load_dataset

from disback_diffusers import DisBackPipeline
from disback_diffusers.evaluation.extractors import load_extractor
from disback_diffusers.evaluation.frechet import frechet_distance, statistics
from disback_diffusers.evaluation.images import features_of
from disback_diffusers.evaluation.sheets import contact_sheet, to_pil
from disback_diffusers.files import user_path
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import EDM, open_teacher


EMOJI = Path(__file__).parents[1] / "examples" / "data" / "noto_emoji_32.parquet"
JUDGED_AT = 32  # pixels of a side
BATCH = 64
SHOWN = 12


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=user_path)
    parser.add_argument("--real", type=user_path, default=EMOJI, help="A parquet file with the columns image, label.")
    parser.add_argument("--nfe", type=int, nargs="*", default=[9, 11, 17, 35, 79], help="Odd: Heun takes 2n - 1.")
    parser.add_argument("--student", type=user_path, action="append", default=[], help="Can be given several times.")
    parser.add_argument("--images", type=int, help="By default as many as there are real ones.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=user_path, default=Path("edm_teacher.json"))
    return parser.parse_args()


class Measure:
    """Real images, the noise and the labels that all models get, and what is measured of them."""

    def __init__(self, args, size: int):
        data = load_dataset("parquet", data_files=str(args.real), split="train")
        spread = torch.linspace(0, len(data) - 1, args.images or len(data)).round().long().tolist()
        self.real = [image.convert("RGB").reduce(image.width // size) for image in data["image"]]
        self.labels = torch.tensor(data["label"])[spread]
        self.extractor = load_extractor("embedded", "cpu")
        self.reference = statistics(features_of(self.real, self.extractor, JUDGED_AT, label="real"))
        self.shown = {"real": torch.stack([self._pixels(i) for i in spread[:: len(spread) // SHOWN][:SHOWN]])}
        self.seed, self.rows = args.seed, []

    def _pixels(self, i):
        return torch.tensor(list(self.real[i].tobytes())).view(*self.real[i].size, 3).permute(2, 0, 1) / 255

    def __call__(self, name: str, generate, shape: tuple[int, ...]) -> None:
        """Measure a model: `generate(z, labels)` returns images (n, 3, h, w) in [0, 1]."""
        z = torch.randn(len(self.labels), *shape, generator=torch.Generator().manual_seed(self.seed))
        start = time.perf_counter()
        with torch.no_grad():
            parts = zip(z.split(BATCH), self.labels.split(BATCH), strict=True)
            images = torch.cat([generate(*part) for part in parts])
        seconds = (time.perf_counter() - start) / len(images)
        features = features_of([to_pil(image) for image in images], self.extractor, JUDGED_AT, label=name)
        row = {"model": name, "fd": round(frechet_distance(*statistics(features), *self.reference), 4)}
        self.rows.append({**row, "milliseconds an image": round(1000 * seconds, 1)})
        self.shown[name] = images[:: len(images) // SHOWN][:SHOWN]
        print(self.rows[-1], flush=True)


def teacher_sampler(family: EDM, steps: int):
    """`generate` of the teacher in this number of Heun steps."""
    teacher = Denoiser(family, family.load_network(), family.schedule)

    def generate(z, labels):
        conditions = Conditions({"labels": labels} if family.classes else {}, rows=len(z))
        return family.decode(family.sample(teacher, z, conditions, conditions, steps))

    return generate


def student_sampler(folder: Path, classes: int):
    """`generate` of a student."""
    pipe = DisBackPipeline.from_pretrained(folder)
    if len(pipe.class_labels) != classes:
        raise SystemExit(f"{folder} is a student of {len(pipe.class_labels)} classes, the teacher has {classes}.")
    return lambda z, labels: pipe(class_labels=labels if classes else None, latents=z, output_type="pt").images


def main() -> None:
    args = parse_args()
    family = open_teacher(str(args.teacher), among=[EDM])
    shape = family.buckets([])[0].shape
    measure = Measure(args, size=shape[-1])
    samplers = {folder.name: student_sampler(folder, family.classes) for folder in args.student}
    for nfe in args.nfe:
        measure(f"teacher, {nfe} NFE", teacher_sampler(family, (nfe + 1) // 2), shape)
    for name, sampler in samplers.items():
        measure(f"{name}, 1 NFE", sampler, shape)
    record = {
        "teacher": args.teacher.name, "images": len(measure.labels), "real images": len(measure.real),
        "seed": args.seed, "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__}, "rows": measure.rows,
    }  # fmt: skip
    args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    contact_sheet(measure.shown).save(args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
