# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The pairs of a blind comparison: images of two folders with their prompts, and the order for each rater."""

import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import SUFFIXES, image_files
from ..errors import UsageError, one_line


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, one from each folder."""

    name: str  # of both files
    prompt: str  # empty for models without prompts
    a: Path
    b: Path


@dataclass(frozen=True)
class Question:
    """A pair as one rater sees it; `a_left` says whether image A is on the left."""

    pair: Pair
    a_left: bool

    @property
    def images(self) -> tuple[Path, Path]:
        """The files on the left and on the right."""
        return (self.pair.a, self.pair.b) if self.a_left else (self.pair.b, self.pair.a)


def find_pairs(a: str | os.PathLike, b: str | os.PathLike, prompts: Sequence[str] | None) -> list[Pair]:
    """Pairs of images with the same file name, sorted by name.

    Args:
        a, b (`str` or `os.PathLike`): folders of images, or with `images/` in them.
        prompts (`list[str]` or `None`): one per pair, in the order of the file names; None without prompts.

    Raises:
        UsageError: a folder is missing or has no images, the file names differ, or there is not one prompt per pair.
    """
    files_a, files_b = _images(a), _images(b)
    for folder, lacking, other, complete in ((a, files_a, b, files_b), (b, files_b, a, files_a)):
        if missing := [name for name in complete if name not in lacking]:
            number = f"{len(missing)} image{'s' if len(missing) > 1 else ''}"
            raise UsageError(
                f"{folder} lacks {number} of {other}, first {missing[0]}: make what is missing, or remove the others."
            )
    if prompts is None:
        prompts = [""] * len(files_a)
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


def subset(pairs: list[Pair], n: int, seed: int) -> list[Pair]:
    """A random choice of n pairs, in their original order."""
    chance = random.Random(f"subset {seed}")
    chosen = set(sorted(pairs, key=lambda _: chance.random())[:n])
    return [pair for pair in pairs if pair in chosen]


def questions(pairs: list[Pair], seed: int, rater: str) -> list[Question]:
    """All pairs in the random order of this rater. A is on the left in half of them."""
    chance = random.Random(f"order {seed} {rater}")  # only random(): shuffle() may differ between Python versions
    order = sorted(pairs, key=lambda _: chance.random())
    left = sorted((i % 2 == 0 for i in range(len(pairs))), key=lambda _: chance.random())
    return [Question(pair, a_left) for pair, a_left in zip(order, left)]


def fingerprint(pairs: list[Pair]) -> str:
    """sha256 of the names, prompts and contents of all pairs.

    Raises:
        UsageError: a file cannot be read.
    """
    try:
        contents = [[hashlib.sha256(file.read_bytes()).hexdigest() for file in (pair.a, pair.b)] for pair in pairs]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror}): repair it.") from None
    rows = [[pair.name, pair.prompt, *sums] for pair, sums in zip(pairs, contents)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_images(pairs: list[Pair]) -> None:
    """Decode every image once, so that damaged ones are found before a rater sees the page.

    Raises:
        UsageError: an image is damaged; names the first one.
    """
    for file in (file for pair in pairs for file in (pair.a, pair.b)):
        try:
            with Image.open(file) as image:
                image.load()
        except Exception as error:  # Pillow raises many kinds
            raise UsageError(f"{file} is no readable image ({one_line(error)}): make it again.") from None
