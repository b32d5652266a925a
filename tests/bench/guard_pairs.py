"""Pictures and what an instruction editor could have made of them: edits and drifts whose truth is known."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from instdiff_core.arrays import Mask, Picture
from instdiff_core.mini.scenes import background_words, compose, object_words

SEED = 8_000_009
"""The first part of every pair's seed."""

PHOTOGRAPHS = {
    "skimage": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
    "sklearn": ("china.jpg", "flower.jpg"),
}
"""What scikit-image and scikit-learn bring, under CC0 or BSD-like licences, where they are installed."""

UNITS = 8, 16, 32, 112
"""What the sides of an editor's pictures are multiples of."""

Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Pair:
    """An original and its edit, `ideal` with nothing else changed, `truth` where, `homography` ``[3, 3]`` how it moved.

    The homography takes the original's places to the edit's, both -1..1 from border to border.
    """

    original: Picture
    edited: Picture
    ideal: Picture
    truth: Mask
    homography: NDArray[np.float64]


def photographs() -> Iterator[Picture]:
    """The installed photographs, ``[H, W, 3]``."""
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            files = {file.name: file for file in Path(folder).rglob("*.*g") if file.name in names}
            for name in sorted(files):
                with Image.open(files[name]) as image:
                    yield np.asarray(image.convert("RGB"))


def scene(rng: Random, size: int = 512) -> Picture:
    """A composed scene of several things with a photograph's texture, for where no photograph is installed."""
    things = [str(word) for word in rng.choice(object_words(), 2, replace=False)]
    picture = compose(rng, things, str(rng.choice(background_words())), size=size, scale=(0.3, 0.5))[0]
    texture = sum(
        2**octave * ndimage.gaussian_filter(rng.normal(0, 1, (size, size, 3)), (2**octave, 2**octave, 0.5), mode="wrap")
        for octave in range(6)
    )
    return (picture + 25 * texture / np.std(texture)).round().clip(0, 255).astype(np.uint8)


def pair(
    rng: Random, kind: str, pictures: list[Picture], *, longest: int = 1600, pixels: int = 1024**2, bend: float = 0
) -> Pair:
    """An edit of a `kind` (of `EDITS`, or "nothing") of one of the pictures, as an editor of about `pixels` makes it.

    `longest` bounds the longer side of the original. Outside the edit the editor bends the picture here and
    there by up to `bend` pixels, at 1024 of the longer side.
    """
    numbers = rng.permutation(len(pictures))
    original = _sized(pictures[numbers[0]], rng.uniform(0.4, 1) * longest)
    other = _sized(pictures[numbers[-1]], max(original.shape))
    truth = np.zeros(original.shape[:2], np.bool_)
    ideal = original
    if kind != "nothing":
        truth = _blob(rng, truth.shape)
        ideal, truth = EDITS[kind](rng, original, other, truth)
    edited, homography = drift(rng, bent(rng, ideal, truth, bend) if bend else ideal, pixels=pixels)
    return Pair(original, edited, ideal, truth, homography)


def _sized(picture: Picture, longest: float) -> Picture:
    scale = longest / max(picture.shape)
    size = [max(16, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.LANCZOS))


def _blob(rng: Random, shape: tuple[int, ...]) -> Mask:
    """A roundish area of 2 to 15 % of the picture, inside it."""
    height, width = shape
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = [rng.uniform(0, 0.25 / order) * np.cos(order * angles + rng.uniform(0, 6)) for order in (1, 2, 3)]
    radius = (1 + np.sum(waves, 0)) * math.sqrt(rng.uniform(0.02, 0.15) * height * width / np.pi)
    stretch = rng.uniform(0.75, 1.3)
    x, y = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height
    outline = zip(x + stretch * radius * np.cos(angles), y + radius / stretch * np.sin(angles), strict=True)
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon([(float(across), float(down)) for across, down in outline], fill=1)
    return np.array(image)


def _paste(rng: Random, picture: Picture, other: Picture, area: Mask) -> tuple[Picture, Mask]:
    """A part of another picture."""
    height, width = area.shape
    tile = np.tile(other, (-(-height // other.shape[0]), -(-width // other.shape[1]), 1))[:height, :width]
    return _mixed(picture, tile, area), area


def _recolour(rng: Random, picture: Picture, other: Picture, area: Mask) -> tuple[Picture, Mask]:
    """The same thing in another colour."""
    hsv = np.array(Image.fromarray(picture).convert("HSV"))
    hsv[..., 0] += np.uint8(rng.integers(60, 190))
    hsv[..., 1] = np.maximum(hsv[..., 1], 90)
    return _mixed(picture, np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")), area), area


def _remove(rng: Random, picture: Picture, other: Picture, area: Mask) -> tuple[Picture, Mask]:
    """What is around it, smoothly continued, with some grain."""
    sigma = math.sqrt(area.sum()) / 3
    weight = ndimage.gaussian_filter((~area).astype(np.float32), sigma) + 1e-6
    around = [ndimage.gaussian_filter(picture[..., band] * ~area * 1.0, sigma) / weight for band in range(3)]
    filled = np.stack(around, -1) + rng.normal(0, 2, picture.shape)
    result = _mixed(picture, filled.clip(0, 255).astype(np.uint8), area)
    changed = np.abs(result.astype(int) - picture).max(-1) > 12
    return result, ndimage.binary_closing(changed, iterations=3) & area


def _text(rng: Random, picture: Picture, other: Picture, area: Mask) -> tuple[Picture, Mask]:
    """Words, of which the small gaps between their strokes are a part."""
    rows, columns = (np.nonzero(area.any(axis))[0] for axis in (1, 0))
    image = Image.new("L", area.shape[::-1])
    font = ImageFont.load_default(max(16.0, float(len(columns)) / 2.5))
    ImageDraw.Draw(image).text((int(columns[0]), int(rows.mean())), "EDITED", 255, font)
    cover = np.asarray(image)[..., None] / 255
    under = picture[np.asarray(image) > 0].mean() if cover.any() else 0
    colour = np.array([250, 240, 60] if under < 128 else [20, 20, 90])
    strokes = ndimage.binary_closing(cover[..., 0] > 0.3, iterations=round(4 * max(area.shape) / 1024))
    return (picture * (1 - cover) + colour * cover).round().astype(np.uint8), ndimage.binary_fill_holes(strokes)


def _mixed(picture: Picture, other: Picture, area: Mask) -> Picture:
    cover = ndimage.gaussian_filter(area.astype(np.float32), 0.7)[..., None]
    return (picture * (1 - cover) + other * cover).round().clip(0, 255).astype(np.uint8)


EDITS: dict[str, Callable[[Random, Picture, Picture, Mask], tuple[Picture, Mask]]] = {
    "paste": _paste,
    "recolour": _recolour,
    "remove": _remove,
    "text": _text,
}


def drift(
    rng: Random, picture: Picture, amount: float = 1.0, pixels: int = 1024**2
) -> tuple[Picture, NDArray[np.float64]]:
    """A picture moved, resized, recoloured, softened and compressed, and the homography that moved it.

    An `amount` of 1 is what edit models do.
    """
    height, width = picture.shape[:2]
    homography = np.eye(3)
    homography[[0, 1], [0, 1]] = rng.uniform(0.97, 1.03) ** amount
    homography[:2, 2] = amount * rng.uniform(-12, 12, 2) * 2 / 1024
    if rng.random() < 0.5:
        homography[2, :2] = amount * rng.uniform(-0.005, 0.005, 2)
    scale, unit = math.sqrt(pixels / (height * width)), int(rng.choice(UNITS))
    size = tuple(max(1, round(side * scale / unit)) * unit for side in (height, width))
    moved = warp(picture, homography, size)
    moved = ndimage.gaussian_filter(moved, (*(amount * rng.uniform(0.3, 0.9),) * 2, 0))
    moved += 0.03 * amount * ndimage.gaussian_filter(rng.normal(0, 1, moved.shape), (1, 1, 0))
    moved = moved.clip(0, 1) ** (rng.uniform(0.9, 1.12) ** amount)
    moved = 0.5 + (moved - 0.5) * rng.uniform(0.93, 1.07) ** amount
    grey = moved.mean(-1, keepdims=True)
    moved = grey + (moved - grey) * rng.uniform(0.9, 1.15) ** amount + amount * rng.uniform(-0.02, 0.02, 3)
    if rng.random() < 0.4:
        down, across = (np.linspace(-1, 1, side) * rng.uniform(-1, 1) for side in size)
        moved += 0.03 * amount * (down[:, None] + across)[..., None] * rng.uniform(-1, 1, 3)
    stored = io.BytesIO()
    image = Image.fromarray((moved.clip(0, 1) * 255).round().astype(np.uint8))
    image.save(stored, "JPEG", quality=int(rng.integers(80, 96)))
    return np.asarray(Image.open(stored)), homography


def bent(rng: Random, picture: Picture, truth: Mask, most: float) -> Picture:
    """A picture with three soft bumps outside `truth`, in their middle shifted by up to `most` pixels (at 1024)."""
    height, width = truth.shape
    longest = max(height, width)
    down, across = np.mgrid[:height, :width].astype(np.float64)
    middles, shifts = np.stack([down, across], -1), np.zeros((height, width, 2))
    for _ in range(3):
        distance = np.square(middles - rng.uniform(0.15, 0.85, 2) * [height, width]).sum(-1)
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.09) * longest
        bump = rng.uniform(0.6, 1) * most * longest / 1024 * np.exp(-distance / (2 * radius**2))
        shifts += bump[..., None] * [np.sin(angle), np.cos(angle)]
    if truth.any():
        shifts *= (ndimage.distance_transform_edt(~truth) / (0.05 * longest)).clip(0, 1)[..., None]
    coordinates = np.moveaxis(middles + shifts, -1, 0)
    bands = [ndimage.map_coordinates(picture[..., band] * 1.0, coordinates, mode="nearest") for band in range(3)]
    return np.stack(bands, -1).round().clip(0, 255).astype(np.uint8)


def warp(picture: Picture, homography: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """A picture as it is after a homography, at a size ``(H, W)``, in 0..1."""
    values = torch.from_numpy(picture.copy()).movedim(-1, 0)[None].float() / 255
    values = functional.interpolate(values, tuple(size), mode="bicubic", antialias=True)
    grid = places(np.asarray(np.linalg.inv(homography), np.float64), size)
    moved = functional.grid_sample(values, grid[None].float(), "bicubic", "reflection", align_corners=False)
    return moved[0].movedim(0, -1).double().numpy()


def places(homography: NDArray[np.float64], size: tuple[int, ...]) -> Tensor:
    """Where a homography takes the pixels of a picture of a size ``(H, W)``, ``[H, W, 2]`` float64."""
    down, across = ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1 for side in size)
    points = torch.stack([across.expand(size[0], -1), down[:, None].expand(-1, size[1]), torch.ones(size)], -1)
    moved = points.double() @ torch.from_numpy(homography).T
    return moved[..., :2] / moved[..., 2:]
