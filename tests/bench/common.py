"""What the benchmarks share: fresh scenes, figures with their intervals, contact sheets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from instdiff_core.mini.scenes import Picture, background_words, compose, object_words, with_article

SEED = 7_000_003
"""The first part of every scene's seed. Training seeds with single numbers around 20240107."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture of one object, the object's exact mask, and what the object is to become."""

    picture: Picture
    mask: Mask
    source: str
    background: str
    target: str

    @property
    def prompt(self) -> str:
        """The edit prompt: "a dog"."""
        return with_article(self.target)


def fresh_scenes(count: int, offset: int = 0) -> Iterator[Scene]:
    """Scenes that training never saw; scene `n` from `offset` on is the same in every run."""
    for number in range(offset, offset + count):
        rng = np.random.default_rng([SEED, number])
        source, target = (str(word) for word in rng.choice(object_words(), 2, replace=False))
        background = str(rng.choice(background_words()))
        picture, masks = compose(rng, [source], background)
        yield Scene(picture, masks[0], source, background, target)


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def add_scene_options(parser: argparse.ArgumentParser, scenes: int) -> None:
    """`--scenes` and `--seed-offset`, as `fresh_scenes` takes them."""
    parser.add_argument("--scenes", type=int, default=scenes, help=f"how many pictures to edit; default: {scenes}")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first scene; default: 0")


def precision_recall(mask: Mask, truth: Mask) -> tuple[float, float]:
    """How much of the mask is right, and how much of the truth it has found; 0 for an empty mask."""
    common = float((mask & truth).sum())
    return common / max(mask.sum(), 1), common / max(truth.sum(), 1)


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


def grey(values: NDArray[np.float32] | Mask) -> Image.Image:
    """A map of 0..1, or a mask, as a picture."""
    return Image.fromarray((np.asarray(values, np.float32).clip(0, 1) * 255).astype(np.uint8))


def outlined(image: Image.Image, mask: Mask) -> Image.Image:
    """The image with the mask's border drawn on it in red."""
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
