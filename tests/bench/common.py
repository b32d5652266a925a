"""What the benchmarks share: figures with their intervals, rank correlation, contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from instdiff_core.arrays import Mask


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def interval(
    values: Sequence[float] | NDArray[np.float64],
    figure: Callable[..., NDArray[np.float64]] = np.mean,
    draws: int = 4000,
) -> tuple[float, float]:
    """The bootstrap 95 % interval of `figure` (a function with an axis argument), always from the same draws."""
    sample = np.asarray(values, np.float64)
    chosen = np.random.default_rng(0).integers(0, len(sample), (draws, len(sample)))
    low, high = np.percentile(figure(sample[chosen], axis=1), (2.5, 97.5))
    return float(low), float(high)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The rank correlation of two series, -1 to 1; none where one of them does not vary."""
    ranks = [_ranks(np.asarray(series, np.float64)) for series in (first, second)]
    if min((np.ptp(each) for each in ranks if each.size), default=0.0) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each value in their order; equal values share the mean of their places."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def grey(values: NDArray[np.float32] | Mask) -> Image.Image:
    """A map of 0..1, or a mask, as a picture."""
    return Image.fromarray((np.asarray(values, np.float32).clip(0, 1) * 255).astype(np.uint8))


def outlined(image: Image.Image, mask: Mask) -> Image.Image:
    """The image with the mask's outline drawn on it in red."""
    area = grey(mask)
    border = np.asarray(area.filter(ImageFilter.MaxFilter(3))) > np.asarray(area.filter(ImageFilter.MinFilter(3)))
    drawn = np.array(image.convert("RGB"))
    drawn[border] = (255, 40, 40)
    return Image.fromarray(drawn)


def save_sheet(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    blocks: int = 2,
    tile: int = 160,
) -> None:
    """Write rows of pictures, each under its caption, in `blocks` side by side under the names of the columns."""
    title, gap = 16, 4
    lines = -(-len(rows) // blocks)
    width, height = len(columns) * (tile + gap) + 2 * gap, title + tile + gap
    sheet = Image.new("RGB", (blocks * width, title + lines * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate([*columns] * blocks):
        block, place = divmod(column, len(columns))
        draw.text((block * width + place * (tile + gap) + tile // 2, title // 2), name, "black", anchor="mm")
    for number, (caption, images) in enumerate(rows):
        block, line = divmod(number, lines)
        left, top = block * width, title + line * height
        draw.text((left + gap, top + title // 2), caption, "black", anchor="lm")
        for place, image in enumerate(images):
            sheet.paste(image.convert("RGB").resize((tile, tile)), (left + place * (tile + gap), top + title))
    sheet.save(path)
