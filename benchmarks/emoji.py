# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Images of all emoji prompts from fixed noise, by one pipeline after the other, measured by the embedded judge."""

import json
import platform
import time

import diffusers
import torch
from tqdm.auto import tqdm

import disback_diffusers
from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.evaluation.sheets import contact_sheet
from disback_diffusers.models.embedded import PROMPTS


BATCH = 64
SHOWN = ("grinning face", "cat face", "red apple", "rocket", "crown", "panda", "pizza", "rainbow", "bicycle", "guitar")


class Emoji:
    """Rows of a table, and of a contact sheet, on the same prompts and noise.

    Args:
        seed (`int`): of the noise.
        width (`int`): of the images, 32 pixels high; of wider ones the judge sees the middle 32x32.
    """

    def __init__(self, seed=0, width=32):
        self.prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(len(self.prompts), 4, 8, width // 4, generator=generator)
        self.seed, self.judge = seed, Judge()
        self.text = self.judge.text_features(self.prompts)
        self.shown = [self.prompts.index(prompt) for prompt in SHOWN]
        self.rows, self.sheet, self.kept = [], {}, []
        print(f"{'':44} {'FD':>10} {'top-10':>10} {'s/image':>10}")
        print(f"{'real emoji':44} {0:10.3f} {self.judge.reference['retrieval'].item():10.1%}")

    def generate(self, pipeline, numbers=None, **kwargs):
        """Images (n, 3, h, w) in [0, 1] of the prompts with these numbers, by default all, and seconds an image."""
        pipeline.set_progress_bar_config(disable=True)
        numbers = numbers or range(len(self.prompts))
        images, start = [], time.perf_counter()
        for i in tqdm(range(0, len(numbers), BATCH), leave=False):
            part = list(numbers[i : i + BATCH])
            prompts = [self.prompts[number] for number in part]
            images.append(pipeline(prompts, latents=self.noise[part], output_type="pt", **kwargs).images)
        return torch.cat(images), (time.perf_counter() - start) / len(numbers)

    def measure(self, label, pipeline, kept=None, **kwargs):
        """Generate all prompts, print a row and keep it; `kwargs` go to the pipeline.

        Where the figures are known, `kept`, only the images of the sheet are generated. Returns the images.
        """
        if kept:
            images, seconds = self.generate(pipeline, self.shown, **kwargs)
            shown = images
            fd, retrieval = kept["FD"], kept["top-10 retrieval"]
            self.kept.append(label)
        else:
            images, seconds = self.generate(pipeline, **kwargs)
            margin = (images.shape[-1] - images.shape[-2]) // 2
            features = self.judge.image_features(images[..., margin : images.shape[-1] - margin])
            fd, retrieval = self.judge.frechet_distance(features), self.judge.retrieval(features, self.text)
            shown = images[self.shown]
        self.rows.append(
            {
                "model": label,
                "FD": round(fd, 3),
                "top-10 retrieval": round(retrieval, 4),
                "seconds an image": round(seconds, 4),
            }
        )
        self.sheet[f"{label}: FD {fd:.3f}, retrieval {retrieval:.0%}"] = shown
        note = " (measured before, for these very files)" if kept else ""
        print(f"{label:44} {fd:10.3f} {retrieval:10.1%} {seconds:10.4f}{note}", flush=True)
        return images

    def report(self, output, sheet=True, **more):
        """Write the rows, and `more`, to a JSON file, and the contact sheet to a PNG file beside it."""
        record = {
            "rows": self.rows,
            **({"measured before": self.kept} if self.kept else {}),
            "prompts": len(self.prompts),
            "seed": self.seed,
            "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
            "versions": {
                "disback_diffusers": disback_diffusers.__version__,
                "diffusers": diffusers.__version__,
                "torch": torch.__version__,
            },
            **more,
        }
        output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"{output} is written.")
        if sheet:
            contact_sheet(self.sheet, [self.prompts[i] for i in self.shown]).save(output.with_suffix(".png"))
            print(f"{output.with_suffix('.png')} is written.")
