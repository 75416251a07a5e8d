# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The work of evaluate_disback.py: generate, measure, report."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import diffusers
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from PIL import Image

from .. import __version__
from ..data.images import Files, prepare
from ..data.prompts import load_prompts
from ..errors import UsageError, about
from ..files import atomic_write
from ..launcher import check_launcher
from ..models.embedded import EMBEDDED
from .candidate import generate, given_images, is_pixels, is_student, planned, texts_of_images
from .clip_score import ClipScore
from .extractors import load_extractor
from .frechet import frechet_distance, statistics
from .images import Part, features_of
from .judge import RETRIEVED, Judge
from .metrics import coverage_metrics, kernel_distance
from .protocols import check_size, resizes
from .reference import KEPT, Reference, default_extractor, load_reference
from .sheets import contact_sheet


SHOWN = 10
NEIGHBOURS = 5
METRICS = ("FID", "KID", "FD", "KD", "precision", "recall", "density", "coverage", "CLIP score", "top-10 retrieval")


def evaluate(args: argparse.Namespace) -> dict | None:
    """Run a whole evaluation: check, load, generate, measure, report.

    Args:
        args (`argparse.Namespace`): of evaluate_disback.py.

    Returns:
        `dict` or `None`: the results on the main process, None on the others.

    Raises:
        UsageError, RunError: the message is one line for the user.
    """
    # Long timeout: only the main process reads the reference, and the others wait.
    check_launcher()
    accelerator = Accelerator(
        mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))]
    )
    folder = Path(args.output_dir)
    prompts = _prompts(args)
    generation, images, captions = None, _given_images(args, prompts), prompts
    if images is None:
        captions = texts = texts_of_images(args, prompts)
        if is_pixels(args):  # class labels are nothing to measure images by
            prompts, captions = [], [text and f"class {text}" for text in texts]
        is_student(args)  # checks
        generation = planned(args, texts * args.repeats)
        generation.check()
        images = Files(generation.files)
    if len(images) < 2 * args.repeats and (args.reference or args.save_reference):
        raise UsageError("the Fréchet distance needs at least 2 images: give a larger --num_images or more prompts.")
    # Load everything for the measuring before generating: mistakes show before the slow part.
    instruments = Instruments(args, accelerator.device) if accelerator.is_main_process else None
    real_size = instruments.reference.size if instruments and instruments.reference else None
    if generation:
        recorded = generate(args, generation, accelerator, real_size)
    else:
        recorded = {}
        check_size(args, min(images[0].size), real_size or min(images[0].size))
    if not accelerator.is_main_process:
        return None
    results = {**instruments.measure_repeats(images, prompts), **recorded}
    _report(folder, args, results, images, captions)
    return results


def _prompts(args):
    if not args.prompts:
        return []
    prompts = load_prompts(args.prompts, args.caption_column, "--prompts")
    if args.num_images and args.num_images > len(prompts):
        raise UsageError(f"--num_images {args.num_images} is more than the {len(prompts)} prompts of --prompts.")
    return prompts[: args.num_images]


def _given_images(args, prompts):
    """The images of MODEL if it is a folder of images, else None."""
    files = given_images(args.model)
    if not files:
        return None
    wanted = (args.num_images or len(files) // args.repeats) * args.repeats
    if wanted > len(files) or (not args.num_images and wanted < len(files)):
        times = f" x --repeats {args.repeats}" if args.repeats > 1 else ""
        given = f"--num_images {args.num_images or '(not given)'}{times}"
        raise UsageError(f"{given} does not fit the {len(files)} images of {args.model}.")
    files = files[:wanted]
    if args.clip_model and not prompts:
        raise UsageError("--clip_model needs --prompts: a prompt for each image, in the order of their names.")
    if prompts and len(prompts) * args.repeats != len(files):
        raise UsageError(f"--prompts holds {len(prompts)} prompts, but {args.model} {len(files)} images.")
    return Files(files)


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


class Instruments:
    """Everything to measure with: extractor, reference and CLIP, loaded once.

    Args:
        args (`argparse.Namespace`): of evaluate_disback.py.
        device (`torch.device` or `str`): where the networks run.

    Raises:
        UsageError: one of them cannot be loaded, or the arguments ask for none.
    """

    def __init__(self, args: argparse.Namespace, device: torch.device | str):
        if not (args.reference or args.save_reference or args.clip_model):
            raise UsageError("nothing to measure: give --reference, --clip_model or --save_reference.")
        if args.repeats > 1 and (not args.reference or args.save_reference):
            raise UsageError("--repeats needs --reference, and cannot be used with --save_reference.")
        self.args = args
        self.clip = ClipScore(args.clip_model, device) if args.clip_model else None
        self.extractor = self.reference = None
        if args.reference or args.save_reference:
            with about("--feature_extractor"):
                self.extractor = load_extractor(args.feature_extractor or default_extractor(args.reference), device)
        if args.reference:
            given = args.reference, self.extractor, args.eval_size, args.num_real_images
            self.reference = load_reference(*given, resize=resizes(args))

    def measure_repeats(self, images: Sequence[Image.Image], prompts: list[str]) -> dict:
        """As `measure`, of each of --repeats equal parts of the images: the results of the part with the lowest
        Fréchet distance, its first seed, and the distances of all. EDM's results are the lowest of three (Karras et
        al., 2022).
        """
        repeats, count = self.args.repeats, len(images) // self.args.repeats
        if repeats == 1:
            return self.measure(images, prompts)
        parts = [self.measure(Part(images, i * count, count), prompts) for i in range(repeats)]
        name = "FID" if "FID" in parts[0] else "FD"
        i, best = min(enumerate(parts), key=lambda part: part[1][name])
        distances = [round(results[name], 4) for results in parts]
        return {**best, f"{name} of the repeats": distances, "first seed": self.args.seed + i * count}

    def measure(self, images: Sequence[Image.Image], prompts: list[str]) -> dict:
        """All numbers by name.

        Args:
            images (`Sequence` of `PIL.Image.Image`).
            prompts (`list[str]`): one per image, or none.

        Raises:
            UsageError: an image cannot be read.
            RunError: the file of --save_reference cannot be written.
        """
        results = {"images": len(images)}
        if self.extractor:
            size = self.reference.size if self.reference else self.args.eval_size or min(images[0].size)
            features = features_of(images, self.extractor, size, resize=resizes(self.args))
            results.update(
                {"feature extractor": self.extractor.name, "feature size": features.shape[1], "evaluated at": size}
            )
            if self.reference:
                results.update(compare(features, self.reference))
            if len(prompts) > RETRIEVED and self.extractor.name == EMBEDDED:
                judge = Judge()
                results["top-10 retrieval"] = judge.retrieval(features, judge.text_features(prompts))
            if self.args.save_reference:
                Reference.of(features, self.extractor.name, size).save(self.args.save_reference)
        if self.clip:
            results["CLIP score"] = self.clip(images, prompts)
        return results


def compare(features: torch.Tensor, reference: Reference) -> dict:
    """Metrics of generated features (n, d) against a reference; FID and KID with Inception, else FD and KD."""
    fd, kd = ("FID", "KID") if reference.extractor == "inception" else ("FD", "KD")
    results = {"real images": reference.count}
    results[fd] = frechet_distance(*statistics(features), reference.mean, reference.covariance)
    if reference.features is not None and min(len(features), len(reference.features)) > NEIGHBOURS:
        results[kd], results[f"{kd} spread"] = kernel_distance(features, reference.features)
        results.update(coverage_metrics(features[:KEPT], reference.features, NEIGHBOURS))
    return results


# ---------------------------------------------------------------------------------------------------------------------
# Reporting


def _report(folder, args, results, images, captions):
    """Print the table and the card line; write results.json and samples.png, each image with its prompt or class."""
    for name, value in results.items():
        print(f"{name:18} {_text(value)}")
    if results.get("feature size", 0) >= results["images"]:
        print("note: with no more images than features, the Fréchet distance is far too high to be compared.")
    if {"FD", "FID"} & results.keys():
        both = "the Fréchet distance" + (" and retrieval" if "top-10 retrieval" in results else "")
        print(f"note: compare {both} with results of {results['images']:,} images only.")
    if args.reference or args.clip_model:
        print(f"\nFor a model card:\n{card_line(args, results)}")
    record = {
        "results": results,
        "settings": {name: value for name, value in vars(args).items() if value is not None},
        "versions": {"disback_diffusers": __version__, "diffusers": diffusers.__version__, "torch": torch.__version__},
    }
    text = json.dumps(record, indent=2, default=str) + "\n"
    atomic_write(folder / "results.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    size, spread = min(images[0].size), _spread(captions, len(images))
    shown = torch.stack([prepare(images[i], size, size) for i in spread]) / 255
    below = [captions[i % len(captions)] for i in spread] if any(captions) else ()
    sheet = contact_sheet({Path(args.model).name: shown}, below)
    atomic_write(folder / "samples.png", lambda temporary: sheet.save(temporary, format="png"))
    print(f"\n{folder / 'results.json'} and {folder / 'samples.png'} are written.")


def _spread(captions, images):
    """Which images are shown: spread over the prompts or classes, and more of each only where these are few."""
    count, seen, order = min(SHOWN, images), Counter(), []
    for i in range(images):
        caption = captions[i % len(captions)] if captions else i
        order.append((seen[caption], i))
        seen[caption] += 1
    first = [i for earlier, i in order if not earlier]
    if len(first) >= count:
        return [first[i * len(first) // count] for i in range(count)]
    return sorted(i for _, i in sorted(order)[:count])


def card_line(args: argparse.Namespace, results: dict) -> str:
    """The numbers and the conditions they were measured under, as one line of Markdown."""
    numbers = ", ".join(f"{name} {_text(results[name])}" for name in METRICS if name in results)
    what = f"{results['images']:,} images"
    if "evaluated at" in results:
        what += f" at {results['evaluated at']}x{results['evaluated at']}, features of {results['feature extractor']}"
    if "real images" in results:
        what += f", against {results['real images']:,} of {Path(args.reference).name}"
    if args.protocol:
        what += f", protocol {args.protocol}"
    if args.repeats > 1:
        what += f", the set with the lowest Fréchet distance of {args.repeats}"
    seed = results.get("first seed", args.seed)
    return f"**{numbers}** ({what}; seed {seed}, disback-diffusers {__version__})"


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
