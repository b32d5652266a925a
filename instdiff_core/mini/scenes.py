"""Pictures composed from emoji on drawn backgrounds, with the exact mask of every object.

Training, demo, tests and benchmark all draw their pictures here, so that a mask can be
compared with the truth instead of with somebody's outline of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arrays import Picture

FOLDER = Path(__file__).parent

Masks = NDArray[np.bool_]
"""``[objects, height, width]``, true where the object shows."""


@functools.cache
def vocabulary() -> dict[str, Any]:
    """What the model knows: the content of ``vocabulary.json``."""
    return json.loads((FOLDER / "vocabulary.json").read_text(encoding="utf-8"))


def object_words() -> list[str]:
    """The caption words of all objects, without adjectives."""
    return [entry["word"] for entry in vocabulary()["objects"]]


def background_words() -> list[str]:
    """The words of all backgrounds."""
    return [entry["word"] for entry in vocabulary()["backgrounds"]]


@functools.cache
def _emoji() -> dict[str, tuple[str, ...]]:
    """The emoji that a name may mean: "car" any car, "red car" the red one."""
    names: dict[str, tuple[str, ...]] = {}
    for entry in vocabulary()["objects"]:
        names[entry["word"]] = tuple(entry["emoji"].values())
        for adjective, code_point in entry["emoji"].items():
            if adjective:
                names[f"{adjective} {entry['word']}"] = (code_point,)
    return names


def object_names() -> list[str]:
    """Every name that `compose` takes: the words, and the words with their adjectives."""
    return list(_emoji())


def with_article(name: str) -> str:
    """The name behind its article: "a cat", "an apple"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(rng: np.random.Generator, objects: Sequence[str], background: str) -> str:
    """One of the caption forms of the vocabulary, for at most two objects."""
    forms = vocabulary()["captions"]
    form = rng.choice(forms[("background", "object", "two objects")[len(objects)]])
    phrases = {entry["word"]: entry["phrase"] for entry in vocabulary()["backgrounds"]}
    fields = {"background": phrases[background], "background word": background}
    fields |= dict(zip(("object", "other"), map(with_article, objects), strict=False))
    return str(form).format(**fields)


def compose(
    rng: np.random.Generator,
    objects: Sequence[str],
    background: str,
    *,
    size: int = 256,
    scale: tuple[float, float] = (0.4, 0.75),
) -> tuple[Picture, Masks]:
    """Draw the objects on the background, at random places, sizes, turns and sides.

    `objects` are names as in `object_names`, none to two; two stand side by side.
    `scale` bounds the longer side of an object as a fraction of its share of the picture
    (the whole picture for one object, a little over half of it for two).

    Returns the picture and a mask for each object, in the order given. Raises
    ``ValueError`` for a name or a background that is not in the vocabulary.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"no background {background!r}: choose one of {sorted(BACKGROUNDS)}")
    unknown = [name for name in objects if name not in _emoji()]
    if unknown:
        raise ValueError(f"no object {unknown[0]!r}: choose one of {object_names()}")
    if len(objects) > 2:
        raise ValueError(f"at most two objects fit a picture, not {len(objects)}")

    canvas = Image.fromarray(BACKGROUNDS[background](rng, size))
    shown: list[NDArray[np.bool_]] = []
    share = size if len(objects) < 2 else 0.58 * size
    sides = rng.permutation(2)
    for index, name in enumerate(objects):
        sprite = _sprite(rng, name, share * rng.uniform(*scale))
        low = np.array([0, 0]) if len(objects) < 2 else np.array([sides[index] * size // 2, 0])
        high = np.array([size, size]) if len(objects) < 2 else low + [size // 2, size]
        slack = np.maximum(high - low - sprite.size, 1)
        corner = low + (rng.uniform(size=2) * slack).astype(int)
        corner = np.clip(corner, 0, np.maximum(size - np.array(sprite.size), 0))
        alpha = Image.new("L", (size, size))
        alpha.paste(sprite.getchannel("A"), tuple(corner))
        canvas.paste(sprite.convert("RGB"), tuple(corner), sprite.getchannel("A"))
        covered = np.asarray(alpha) > 127
        shown = [mask & ~covered for mask in shown] + [covered]
    return np.asarray(canvas), np.array(shown, dtype=bool).reshape(-1, size, size)


@functools.cache
def _artwork(code_point: str) -> Image.Image:
    with Image.open(FOLDER / "emoji" / f"{code_point}.png") as image:
        return image.convert("RGBA")


def _sprite(rng: np.random.Generator, name: str, side: float) -> Image.Image:
    """The object turned by up to 15°, maybe mirrored, cropped, its longer side `side` pixels."""
    image = _artwork(str(rng.choice(_emoji()[name])))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel("A").getbbox())
    factor = side / max(image.size)
    width, height = (max(8, round(length * factor)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX if factor < 0.5 else Image.Resampling.BILINEAR)


def noise(rng: np.random.Generator, size: int, cells: int, across: int | None = None) -> NDArray[np.float32]:
    """Smooth noise in -1..1 with `cells` blobs down and `across` (default: as many) across."""
    grid = rng.uniform(-1, 1, (cells, across or cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def paint(rng: np.random.Generator, colour: Sequence[float], shade: NDArray[np.float32]) -> Picture:
    """`colour`, jittered, made lighter and darker by `shade` (in 8-bit units)."""
    base = np.asarray(colour, np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    return np.clip(base + shade[..., None], 0, 255).astype(np.uint8)


def _grass(rng: np.random.Generator, size: int) -> Picture:
    blades = noise(rng, size, size // 10, size // 3) * 28
    return paint(rng, (86, 152, 56), blades + noise(rng, size, 4) * 14)


def _sand(rng: np.random.Generator, size: int) -> Picture:
    grains = rng.normal(0, 7, (size, size)).astype(np.float32)
    return paint(rng, (222, 190, 136), grains + noise(rng, size, 9, 3) * 14)


def _snow(rng: np.random.Generator, size: int) -> Picture:
    return paint(rng, (232, 238, 246), noise(rng, size, 5) * 16)


def _water(rng: np.random.Generator, size: int) -> Picture:
    rows = np.arange(size, dtype=np.float32)[:, None]
    drift = 8 * noise(rng, size, 4)
    waves = np.sin((rows + drift) * 2 * np.pi / (size / rng.uniform(8, 13)))
    return paint(rng, (52, 122, 192), waves * 20 + noise(rng, size, 3) * 10)


def _night(rng: np.random.Generator, size: int) -> Picture:
    stars = np.zeros((size, size), np.float32)
    places = rng.integers(0, size, (2, size // 4))
    stars[places[0], places[1]] = rng.uniform(60, 200, size // 4)
    return paint(rng, (22, 26, 60), stars + noise(rng, size, 3) * 10)


def _bricks(rng: np.random.Generator, size: int) -> Picture:
    course = size // int(rng.integers(7, 10))
    rows, columns = np.mgrid[0:size, 0:size]
    shift = (rows // course % 2) * course
    mortar = (rows % course < 2) | ((columns + shift) % (2 * course) < 2)
    return paint(rng, (164, 78, 60), np.where(mortar, 52, noise(rng, size, size // 8) * 14).astype(np.float32))


BACKGROUNDS: dict[str, Callable[[np.random.Generator, int], Picture]] = {
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "night": _night,
    "bricks": _bricks,
}
