"""What the models are trained on: the scenes of the benchmarks, and a larger world, with several captions each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...arrays import Picture
from ..scenes import Masks, background_words, compose, object_names, vocabulary
from ..scenes import caption as plain_caption
from .corpus import Corpus, caption, caption_words

CAPTIONS = 6
"""Captions drawn for every picture."""

PLAIN = 0.5
"""The part of the pictures that `scenes` composes; the others are of the corpus."""

CUT = 0.15
"""The part of the pictures that are a window out of one, so that objects reach over the border."""

SHOWING = 0.4
"""The part of every object that must show in a window."""

UNKNOWN_WORDS = 0.1
"""The part of the captions with a word "?" in them that the models cannot know."""


@dataclass(frozen=True)
class World:
    """Pictures of `scenes` and of a `corpus`, by turns."""

    corpus: Corpus

    def draw(self, rng: np.random.Generator, size: int = 256) -> tuple[Picture, Masks, list[str]]:
        """A picture, the mask of every object, and `CAPTIONS` captions of it."""
        if rng.random() < PLAIN:
            count = int(rng.choice(3, p=[0.06, 0.6, 0.34]))
            objects = [str(name) for name in rng.choice(object_names(), count, replace=False)]
            background = str(rng.choice(background_words()))
            smallest = 0.2 if rng.random() < 0.4 else 0.4
            picture, masks = compose(rng, objects, background, size=size, scale=(smallest, 0.75))
            captions = [plain_caption(rng, objects, background) for _ in range(CAPTIONS)]
        else:
            picture, masks, shown = self.corpus.scene(rng, size)
            captions = [caption(rng, shown) for _ in range(CAPTIONS)]
        if rng.random() < CUT:
            picture, masks = _window(rng, picture, masks)
        return picture, masks, [_with_unknown(rng, text) for text in captions]


def texts() -> list[str]:
    """Texts that together hold every word of the captions."""
    known = vocabulary()
    forms = [form for group in known["captions"].values() for form in group]
    plain = [word for form in forms for word in form.split() if "{" not in word and "}" not in word]
    phrases = [entry["phrase"] for entry in known["backgrounds"]]
    return [*object_names(), *background_words(), *plain, *phrases, *caption_words()]


def _window(rng: np.random.Generator, picture: Picture, masks: Masks) -> tuple[Picture, Masks]:
    """A part of the picture at its size, in which enough of every object shows; the picture if none is found."""
    size = len(picture)
    side = int(size * rng.uniform(0.5, 0.9))
    for _ in range(4):
        top, left = (int(first) for first in rng.integers(0, size - side + 1, 2))
        inside = masks[:, top : top + side, left : left + side].sum((1, 2))
        if np.all(inside >= SHOWING * masks.sum((1, 2))):
            box = (left, top, left + side, top + side)
            window = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box)
            cut = [Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST, box) for mask in masks]
            return np.asarray(window), np.asarray(cut, bool).reshape(-1, size, size)
    return picture, masks


def _with_unknown(rng: np.random.Generator, text: str) -> str:
    if rng.random() >= UNKNOWN_WORDS:
        return text
    words = text.split()
    words.insert(int(rng.integers(0, len(words) + 1)), "?")
    return " ".join(words)
