# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Contact sheets: labelled rows of images in one picture, for people to look at."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import NotFiniteError


BAND = 18  # pixels of a label's line
SMALLEST = 96  # pixels; smaller images are enlarged to this


def contact_sheet(rows: Mapping[str, torch.Tensor], captions: Sequence[str] = ()) -> Image.Image:
    """Rows of images, each under its label.

    Args:
        rows (`dict[str, Tensor]`): label to images (n, 3, h, w) in [0, 1], all of one size and number.
        captions (`list[str]`, *optional*): one per column, at the bottom, shortened to fit.

    Returns:
        `PIL.Image.Image`.

    Raises:
        NotFiniteError: as in `to_pil`.
    """
    first = next(iter(rows.values()))
    n, _, h, w = first.shape
    scale = max(1, -(-SMALLEST // w))
    h, w = h * scale, w * scale
    sheet = Image.new("RGB", (n * w, len(rows) * (h + BAND) + (BAND if captions else 0)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (label, images) in enumerate(rows.items()):
        top = row * (h + BAND)
        draw.text((4, top + 2), label, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(to_pil(image).resize((w, h), Image.Resampling.NEAREST), (column * w, top + BAND))
    for column, caption in enumerate(captions):
        while draw.textlength(caption, font=font) > w - 6 and caption:
            caption = caption[:-2].rstrip("…") + "…" if len(caption) > 2 else ""
        draw.text((column * w + 3, len(rows) * (h + BAND) + 2), caption, fill="black", font=font)
    return sheet


def to_pil(image: torch.Tensor) -> Image.Image:
    """An image (3, h, w) in [0, 1] to a PIL image.

    Raises:
        NotFiniteError: it has NaN or infinite values, which would be shown as black.
    """
    if not image.isfinite().all():
        raise NotFiniteError("an image has values that are not finite numbers")
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
