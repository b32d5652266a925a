"""The areas that an inpainting model learns to paint: what an edit may hand it, and the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ..scenes import Masks

Area = NDArray[np.bool_]
"""``[height, width]``, true where the model paints."""

KINDS = {"object": 0.66, "background": 0.16, "anywhere": 0.1, "everything": 0.08}
SHAPES = {"outline": 0.35, "box": 0.2, "ellipse": 0.15, "other": 0.3}


def draw_area(rng: np.random.Generator, masks: Masks, others: Sequence[Area]) -> Area:
    """An area of a picture with objects of `masks`: mostly around one of them, which it holds as a whole.

    Its shape must not tell what it holds, for an edit hands over the outline of what was there before:
    it is often that of one of the `others`.
    """
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    size = masks.shape[-1]
    shown = [mask for mask in masks if mask.any()]
    if kind == "everything" or (kind != "anywhere" and not shown):
        return np.ones((size, size), bool)
    if kind == "anywhere":
        return _anywhere(rng, size)
    if kind == "background":
        return ~_grown(np.any(shown, 0), int(rng.integers(0, 6)))
    return _around(rng, shown[int(rng.integers(len(shown)))], others)


def _around(rng: np.random.Generator, mask: Area, others: Sequence[Area]) -> Area:
    shape = str(rng.choice(list(SHAPES), p=list(SHAPES.values())))
    if shape == "outline":
        return _grown(mask, int(rng.integers(4, 20)))
    left, top, right, bottom = _box(mask)
    if shape == "box":
        left, top, right, bottom = (
            int(side + sign * rng.integers(4, 24))
            for side, sign in zip((left, top, right, bottom), (-1, -1, 1, 1), strict=True)
        )
        canvas = Image.new("1", mask.shape[::-1])
        ImageDraw.Draw(canvas).rectangle((left, top, right, bottom), fill=1)
        return np.asarray(canvas, bool)
    # 1.42 of its sides: an ellipse around a box goes through its corners
    wide, high = (round(length * rng.uniform(1.1, 1.42)) for length in (right - left, bottom - top))
    corner = (left + right - wide) // 2, (top + bottom - high) // 2
    canvas = Image.new("L", mask.shape[::-1])
    if shape == "ellipse":
        ImageDraw.Draw(canvas).ellipse((*corner, corner[0] + wide, corner[1] + high), fill=255)
    else:
        other = others[int(rng.integers(len(others)))]
        outline = Image.fromarray(other).crop(_box(other)).convert("L").resize((wide, high))
        canvas.paste(outline, corner)
    return (np.asarray(canvas) > 127) | _grown(mask, 4)


def _anywhere(rng: np.random.Generator, size: int) -> Area:
    canvas = Image.new("1", (size, size))
    for _ in range(int(rng.integers(1, 4))):
        (left, top), (wide, high) = rng.integers(-size // 8, size, 2), rng.integers(size // 8, size // 2, 2)
        draw = ImageDraw.Draw(canvas)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(left), int(top), int(left + wide), int(top + high)), fill=1)
    return np.asarray(canvas, bool)


def _box(mask: Area) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _grown(mask: Area, by: int) -> Area:
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * by + 1))) > 0
