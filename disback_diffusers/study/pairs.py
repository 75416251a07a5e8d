# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The pairs of a blind comparison: two folders of images and a prompt for each, and the order a rater sees them in."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import UsageError, one_line
from ..evaluation.images import SUFFIXES, image_files


@dataclass(frozen=True)
class Pair:
    name: str  # of both files
    prompt: str
    a: Path
    b: Path


@dataclass(frozen=True)
class Question:
    """A pair as one rater sees it."""

    pair: Pair
    a_left: bool

    @property
    def images(self):
        """Left and right file."""
        return (self.pair.a, self.pair.b) if self.a_left else (self.pair.b, self.pair.a)


def find_pairs(a, b, prompts):
    """Pairs of the same file name in two folders (or in `images/` of them), by name; the i-th has the i-th prompt.

    Raises:
        UsageError: a folder is missing or without images, a side lacks some, or there is not one prompt an image.
    """
    files_a, files_b = _images(a), _images(b)
    for folder, lacking, other, complete in ((a, files_a, b, files_b), (b, files_b, a, files_a)):
        if missing := [name for name in complete if name not in lacking]:
            number = f"{len(missing)} image{'s' if len(missing) > 1 else ''}"
            raise UsageError(
                f"{folder} lacks {number} of {other}, first {missing[0]}: make what is missing, or remove the others."
            )
    if len(prompts) != len(files_a):
        raise UsageError(
            f"--prompts holds {len(prompts)} prompts, but there are {len(files_a)} pairs of images: give one prompt "
            "for each, in the order of the file names."
        )
    return [Pair(name, prompt, files_a[name], files_b[name]) for name, prompt in zip(files_a, prompts)]


def _images(folder):
    """Files by name, sorted."""
    found = {file.name: file for file in image_files(folder)}
    if not found:
        raise UsageError(f"{folder} holds no images ({', '.join(SUFFIXES)}), nor does an images/ in it.")
    return found


def subset(pairs, n, seed):
    """A random choice of n pairs, in the order they had."""
    chance = random.Random(f"subset {seed}")
    chosen = set(sorted(pairs, key=lambda _: chance.random())[:n])
    return [pair for pair in pairs if pair in chosen]


def questions(pairs, seed, rater):
    """All pairs in this rater's order; A is on the left in half of them."""
    chance = random.Random(f"order {seed} {rater}")  # of `random` only this: shuffle() may differ between Pythons
    order = sorted(pairs, key=lambda _: chance.random())
    left = sorted((i % 2 == 0 for i in range(len(pairs))), key=lambda _: chance.random())
    return [Question(pair, a_left) for pair, a_left in zip(order, left)]


def fingerprint(pairs):
    """sha256 of the names, prompts and contents of all pairs.

    Raises:
        UsageError: a file cannot be read.
    """
    try:
        contents = [[hashlib.sha256(file.read_bytes()).hexdigest() for file in (pair.a, pair.b)] for pair in pairs]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror}): mend it.") from None
    rows = [[pair.name, pair.prompt, *sums] for pair, sums in zip(pairs, contents)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_images(pairs):
    """Decode every image once, so that no rater meets one that cannot be shown.

    Raises:
        UsageError: names the first that is damaged.
    """
    for file in (file for pair in pairs for file in (pair.a, pair.b)):
        try:
            with Image.open(file) as image:
                image.load()
        except Exception as error:  # Pillow raises many kinds, some of its own
            raise UsageError(f"{file} is no readable image ({one_line(error)}): make it again.") from None
