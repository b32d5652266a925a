"""The larger world that the model is trained on: three drawing styles, photographed grounds, light and shadow.

    python -m instdiff_core.mini.training.corpus --packages DIR --out ARTWORK

makes its artwork out of unpacked packages, each in a folder of DIR under the name given here:

- noto, fluent-emoji, twemoji: the npm packages @iconify-json/noto 1.2.9 (Google, Apache-2.0),
  -/fluent-emoji 1.2.7 (Microsoft, MIT) and -/twemoji 1.2.5 (Twitter and jdecked, CC-BY-4.0);
- skimage: the pictures of scikit-image 0.17.2 (PyPI), which states the sources: brick.png and
  gravel.png (CC0Textures, Bricks25 and Gravel04, CC0), grass.png (linolafett, DeviantArt, CC0),
  hubble_deep_field.jpg (NASA, public domain).

Needs resvg-py, which draws SVG. `corpus.json` lists what there is; all that `vocabulary.json` knows is in it.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ...arrays import Picture
from ..scenes import BACKGROUNDS, Masks, noise, paint, with_article

SIDE = 192
PHOTOGRAPHED = 0.4
SHADOWED = 0.6
COUNTS = (0.05, 0.55, 0.28, 0.12)
"""How often a picture shows none, one, two and three objects."""

SHARES = (1.0, 1.0, 0.58, 0.42)
"""The part of the picture's side that an object is scaled by, by their number."""


@functools.cache
def known() -> dict[str, Any]:
    """The content of ``corpus.json``."""
    return json.loads(Path(__file__).with_name("corpus.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Shown:
    """What a picture shows: its objects as captions may name them, each as `(adjectives, word)`, on a background."""

    objects: tuple[tuple[tuple[str, ...], str], ...]
    background: str


@dataclass(frozen=True)
class Corpus:
    """The artwork in a folder, as `main` makes it."""

    artwork: Path

    def scene(self, rng: np.random.Generator, size: int = 256) -> tuple[Picture, Masks, Shown]:
        """A picture, the mask of every object, and what it shows."""
        entries = rng.choice(known()["objects"], int(rng.choice(len(COUNTS), p=COUNTS)), replace=False)
        ground = rng.choice(known()["backgrounds"])
        canvas = Image.fromarray(self._ground(rng, ground, size))
        masks: list[NDArray[np.bool_]] = []
        objects = []
        count = len(entries)
        light = rng.uniform(-1, 1, 2)
        for place, entry in zip(rng.permutation(count), entries, strict=True):
            colour = str(rng.choice(list(entry["icons"])))
            how_big = str(rng.choice(list(known()["sizes"]), p=(0.25, 0.55, 0.2)))
            side = size * SHARES[count] * rng.uniform(*known()["sizes"][how_big])
            style = str(rng.choice(known()["styles"]))
            sprite = _lit(self._sprite(rng, style, str(rng.choice(entry["icons"][colour])), side), light)
            left, width = (place * size / count, size / count) if count > 1 else (0, size)
            slack = np.maximum(np.array([width, size]) - sprite.size, 1)
            corner = np.array([left, 0]) + rng.uniform(size=2) * slack
            corner = np.clip(corner, 0, np.maximum(size - np.array(sprite.size), 0))
            at = int(corner[0]), int(corner[1])
            alpha = Image.new("L", (size, size))
            alpha.paste(sprite.getchannel("A"), at)
            if rng.random() < SHADOWED:
                canvas = _shadowed(canvas, alpha, light, rng.uniform(0.15, 0.45))
            canvas.paste(sprite.convert("RGB"), at, sprite.getchannel("A"))
            covered = np.asarray(alpha) > 127
            masks = [mask & ~covered for mask in masks] + [covered]
            objects.append((tuple(filter(None, (how_big, colour))), str(entry["word"])))
        shown = Shown(tuple(objects), str(ground["word"]))
        return np.asarray(canvas), np.array(masks, dtype=bool).reshape(-1, size, size), shown

    def _ground(self, rng: np.random.Generator, ground: dict[str, str], size: int) -> Picture:
        word = ground["word"]
        if "photo" not in ground or rng.random() > PHOTOGRAPHED:
            return _GROUNDS[word](rng, size)
        photo = _opened(self.artwork / ground["photo"])
        side = int(rng.uniform(0.4, 0.95) * min(photo.size))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        cut = photo.convert("RGB").resize((size, size), Image.Resampling.BOX, (left, top, left + side, top + side))
        if photo.mode != "L":
            return np.asarray(cut)
        grey = np.asarray(cut, np.float32)[..., 0]
        return paint(rng, _COLOURS[word], (grey - grey.mean()) * 0.7)

    def _sprite(self, rng: np.random.Generator, style: str, icon: str, side: float) -> Image.Image:
        """The icon turned by up to 15°, maybe mirrored, cropped, its longer side `side` pixels."""
        image = _opened(self.artwork / style / f"{icon}.png")
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel("A").getbbox())
        width, height = (max(8, round(length * side / max(image.size))) for length in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2)


def caption(rng: np.random.Generator, shown: Shown) -> str:
    """One of the caption forms; each adjective is named half of the time."""
    phrases = {entry["word"]: entry["phrase"] for entry in known()["backgrounds"]}
    names = [
        " ".join([*(adjective for adjective in adjectives if rng.random() < 0.5), word])
        for adjectives, word in shown.objects
    ]
    fields = {"background": phrases[shown.background], "background word": shown.background, "bare": "".join(names[:1])}
    return str(rng.choice(known()["captions"][len(names)])).format(*map(with_article, names), **fields)


def caption_words() -> list[str]:
    """Every word that a caption can hold."""
    text = ["a an"]
    for form in (form for forms in known()["captions"] for form in forms):
        text.append(" ".join(part for part in form.replace("{background word}", "").split() if "{" not in part))
    for entry in known()["objects"]:
        text += [entry["word"], *entry["icons"]]
    for entry in known()["backgrounds"]:
        text += [entry["word"], entry["phrase"]]
    return sorted({word for part in [*text, *known()["sizes"], ","] for word in part.split()})


@functools.cache
def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image.copy()


def _lit(sprite: Image.Image, light: NDArray[np.float64]) -> Image.Image:
    """The sprite brighter towards the light and darker away from it."""
    pixels = np.array(sprite, np.float32)
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in pixels.shape[:2])
    shade = 1 + 0.15 * (light[0] * columns[None] + light[1] * rows[:, None])
    pixels[..., :3] = (pixels[..., :3] * shade[..., None]).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _shadowed(canvas: Image.Image, alpha: Image.Image, light: NDArray[np.float64], depth: float) -> Image.Image:
    """The canvas darkened by the soft shadow of `alpha`, cast away from the light."""
    size = canvas.size[0]
    shadow = Image.new("L", canvas.size)
    shadow.paste(alpha, (int(-light[0] * size / 24), int(-light[1] * size / 24)))
    strength = np.asarray(shadow.filter(ImageFilter.GaussianBlur(size / 40)), np.float32)[..., None] / 255 * depth
    return Image.fromarray((np.asarray(canvas) * (1 - strength)).astype(np.uint8))


def _gravel(rng: np.random.Generator, size: int) -> Picture:
    stones = noise(rng, size, size // 9) * 40 + noise(rng, size, size // 4) * 22
    return paint(rng, _COLOURS["gravel"], stones)


def _sky(rng: np.random.Generator, size: int) -> Picture:
    height = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    blue = np.array([86, 150, 232], np.float32) + height * np.array([84, 66, 16], np.float32)
    clouds = (noise(rng, size, 3, 5) + 0.5 * noise(rng, size, 8, 14) - rng.uniform(0, 0.6)).clip(0, 1)[..., None]
    return (blue + (250 - blue) * clouds + rng.normal(0, 5)).clip(0, 255).astype(np.uint8)


def _wood(rng: np.random.Generator, size: int) -> Picture:
    plank = size // int(rng.integers(3, 7))
    rows = np.arange(size)[:, None]
    grain = noise(rng, size, size // 5, 3) * 18 + rng.normal(0, 8, size // plank + 1)[rows // plank]
    return paint(rng, (160, 112, 68), np.where(rows % plank < 2, -60, grain).astype(np.float32))


def _road(rng: np.random.Generator, size: int) -> Picture:
    ground = paint(rng, (86, 86, 92), rng.normal(0, 9, (size, size)).astype(np.float32)).copy()
    middle, width = int(rng.uniform(0.3, 0.7) * size), size // 32
    dashes = (np.arange(size) + rng.integers(0, size)) % (size // 3) < size // 5
    ground[middle - width : middle + width, dashes] = (232, 226, 208)
    return ground


def _leaves(rng: np.random.Generator, size: int) -> Picture:
    colours = np.array([(196, 110, 40), (214, 150, 50), (150, 70, 36), (120, 120, 50)], np.float32)
    kinds = np.stack([noise(rng, size, size // 12) for _ in colours]).argmax(0)
    shade = noise(rng, size, size // 8)[..., None] * 22
    return (colours[kinds] + shade + rng.normal(0, 6, 3)).clip(0, 255).astype(np.uint8)


def _carpet(rng: np.random.Generator, size: int) -> Picture:
    period = size / rng.uniform(5, 9)
    rows, columns = np.mgrid[0:size, 0:size] * (2 * np.pi / period)
    pattern = np.sign(np.sin(rows + columns) * np.sin(rows - columns)) * 20
    return paint(rng, (158, 44, 74), (pattern + rng.normal(0, 6, (size, size))).astype(np.float32))


_COLOURS = {"grass": (86, 152, 56), "bricks": (164, 78, 60), "gravel": (150, 145, 138)}

_GROUNDS: dict[str, Callable[[np.random.Generator, int], Picture]] = BACKGROUNDS | {
    "gravel": _gravel,
    "sky": _sky,
    "wood": _wood,
    "road": _road,
    "leaves": _leaves,
    "carpet": _carpet,
}


def write_artwork(packages: Path, out: Path) -> None:
    """Draw every icon in every style, `SIDE` pixels wide and cropped, and copy the photographs."""
    import resvg_py  # type: ignore[import-not-found]

    for style in known()["styles"]:
        icons = json.loads((packages / style / "icons.json").read_text(encoding="utf-8"))
        (out / style).mkdir(parents=True, exist_ok=True)
        for name in (name for entry in known()["objects"] for names in entry["icons"].values() for name in names):
            icon = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]
            box = f"0 0 {icon.get('width', icons['width'])} {icon.get('height', icons['height'])}"
            drawn = resvg_py.svg_to_bytes(
                svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{box}">{icon["body"]}</svg>',
                width=SIDE,
                height=SIDE,
            )
            image = Image.open(BytesIO(bytes(drawn))).convert("RGBA")
            image.crop(image.getchannel("A").getbbox()).save(out / style / f"{name}.png", optimize=True)
    for entry in known()["backgrounds"]:
        if "photo" in entry:
            shutil.copy(packages / "skimage" / entry["photo"], out / entry["photo"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    write_artwork(options.packages, options.out)


if __name__ == "__main__":
    main()
