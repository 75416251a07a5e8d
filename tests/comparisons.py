# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Two folders of images to compare: A is red, B is blue, and the green value is the number of the pair."""

from PIL import Image


def make_folders(folder, n=6, size=32):
    """Images in A/ and, as the evaluation leaves them, B/images/, with p.txt."""
    for side, name in (("A", "A"), ("B", "B/images")):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (size, size), colour(side, i)).save(folder / name / f"{i:06d}.png")
    (folder / "p.txt").write_text("".join(f"thing <{i}> & ${{x}}\n" for i in range(n)))


def colour(side, number):
    return (200, number, 0) if side == "A" else (0, number, 200)
