"""The scenes of the mask benchmark: composed pictures with exact masks, in named groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instdiff_core.arrays import Mask, Picture
from instdiff_core.mini.scenes import (
    background_words,
    compose,
    object_names,
    object_words,
    vocabulary,
    with_article,
)

SEED = 7_000_003
"""The first part of every scene's seed. Training seeds with single numbers around 20240107."""

TWO_EDITS = 100
"""The second part of the seeds of `two_edits`; the groups have their numbers there."""


@dataclass(frozen=True)
class Scene:
    """A picture and an edit of it.

    `truth` is what the edit should change: none where no exact answer exists. `source_prompt`
    says what the picture shows, `prompt` what it is to show, `target` the word of it that is new,
    and `words` those that belong to it. `source` is the object that is there, if any; `kept` and
    `kept_mask` are an object that must stay. Of several edits in one run `edits` has each as a scene of
    its own, of the same picture; the rest is then of all of them together.
    """

    picture: Picture
    truth: Mask | None
    source_prompt: str
    prompt: str
    target: str
    words: tuple[str, ...]
    source: str | None = None
    kept: str | None = None
    kept_mask: Mask | None = None
    edits: tuple[Scene, ...] = ()

    @property
    def prompts(self) -> list[str]:
        """The edit prompt of each edit."""
        return [edit.prompt for edit in self.edits] or [self.prompt]


def scenes(group: str, count: int, offset: int = 0) -> Iterator[Scene]:
    """Scenes that training never saw; scene `n` of a group, from `offset` on, is the same in every run."""
    number = list(GROUPS).index(group)
    for scene in range(offset, offset + count):
        yield GROUPS[group](np.random.default_rng([SEED, number, scene]))


def two_edits(count: int, offset: int = 0) -> Iterator[Scene]:
    """Scenes of two objects, each to become another, from number `offset` on; each is the same in every run.

    The prompt of an edit says what the picture shows after this edit alone.
    """
    for scene in range(offset, offset + count):
        yield _two_edits(np.random.default_rng([SEED, TWO_EDITS, scene]))


def _pick(rng: np.random.Generator, names: list[str], count: int) -> list[str]:
    return [str(name) for name in rng.choice(names, count, replace=False)]


def _replacement(picture: Picture, mask: Mask, source: str, target: str, ending: str = "") -> Scene:
    source_prompt, prompt = (f"{with_article(name)}{ending}" for name in (source, target))
    return Scene(picture, mask, source_prompt, prompt, target.split()[-1], tuple(target.split()), source)


def _one_object(rng: np.random.Generator, scale: tuple[float, float] = (0.4, 0.75)) -> Scene:
    source, target = _pick(rng, object_words(), 2)
    picture, masks = compose(rng, [source], _pick(rng, background_words(), 1)[0], scale=scale)
    return _replacement(picture, masks[0], source, target)


def _small_object(rng: np.random.Generator) -> Scene:
    return _one_object(rng, (0.2, 0.3))


def _border(rng: np.random.Generator) -> Scene:
    """A quarter to a half of the object's box lies beyond the border."""
    source, target = _pick(rng, object_words(), 2)
    picture, masks = compose(rng, [source], _pick(rng, background_words(), 1)[0], size=512, scale=(0.25, 0.35))
    low, high = (np.array([edge(places) for places in np.nonzero(masks[0])]) for edge in (np.min, np.max))
    corner = np.clip((low + high) // 2 - 128 + rng.integers(-60, 61, 2), 0, 256)
    axis = int(rng.integers(2))
    beyond = int((high - low)[axis] * rng.uniform(0.25, 0.5))
    # the side to which the large picture leaves room for the window
    corner[axis] = low[axis] + beyond if low[axis] + high[axis] < 512 else high[axis] - beyond - 256
    window = slice(corner[0], corner[0] + 256), slice(corner[1], corner[1] + 256)
    return _replacement(picture[window], masks[0][window], source, target)


def _low_contrast(rng: np.random.Generator) -> Scene:
    background = _pick(rng, background_words(), 1)[0]
    source = _pick(rng, list(_like(background)), 1)[0]
    target = _pick(rng, [word for word in object_words() if word != source], 1)[0]
    picture, masks = compose(rng, [source], background)
    return _replacement(picture, masks[0], source, target)


def _two_objects(rng: np.random.Generator) -> Scene:
    source, kept, target = _pick(rng, object_words(), 3)
    picture, masks = compose(rng, [source, kept], _pick(rng, background_words(), 1)[0])
    order = rng.permutation(2)
    source_prompt, prompt = (
        " and ".join(with_article((name, kept)[place]) for place in order) for name in (source, target)
    )
    return Scene(picture, masks[0], source_prompt, prompt, target, (target,), source, kept, masks[1])


def _two_edits(rng: np.random.Generator) -> Scene:
    before, after = np.split(np.array(_pick(rng, object_words(), 4)), 2)
    picture, masks = compose(rng, list(before), _pick(rng, background_words(), 1)[0])
    order = rng.permutation(2)

    def prompt_of(*names: str) -> str:
        return " and ".join(with_article(str(names[place])) for place in order)

    source_prompt, prompt = prompt_of(*before), prompt_of(*after)
    prompts = prompt_of(after[0], before[1]), prompt_of(before[0], after[1])
    edits = tuple(
        Scene(picture, mask, source_prompt, own, str(target), (str(target),), str(source))
        for mask, own, target, source in zip(masks, prompts, after, before, strict=True)
    )
    words = tuple(map(str, after))
    return Scene(picture, masks[0] | masks[1], source_prompt, prompt, words[0], words, edits=edits)


def _phrase(rng: np.random.Generator) -> Scene:
    target = _pick(rng, [name for name in object_names() if " " in name], 1)[0]
    source = _pick(rng, [word for word in object_words() if word != target.split()[-1]], 1)[0]
    background = _pick(rng, background_words(), 1)[0]
    picture, masks = compose(rng, [source], background)
    return _replacement(picture, masks[0], source, target, f" {_phrases()[background]}")


def _background(rng: np.random.Generator) -> Scene:
    kept = _pick(rng, object_words(), 1)[0]
    before, after = _pick(rng, background_words(), 2)
    picture, masks = compose(rng, [kept], before)
    source_prompt, prompt = (f"{with_article(kept)} {_phrases()[word]}" for word in (before, after))
    return Scene(picture, ~masks[0], source_prompt, prompt, after, (after,), None, kept, masks[0])


def _absent(rng: np.random.Generator) -> Scene:
    target, background = _pick(rng, object_words(), 1)[0], _pick(rng, background_words(), 1)[0]
    return Scene(compose(rng, [], background)[0], None, background, with_article(target), target, (target,))


def _unchanged(rng: np.random.Generator) -> Scene:
    kept, background = _pick(rng, object_words(), 1)[0], _pick(rng, background_words(), 1)[0]
    picture, masks = compose(rng, [kept], background)
    prompt = f"{with_article(kept)} {_phrases()[background]}"
    return Scene(picture, None, prompt, prompt, kept, (kept,), None, kept, masks[0])


GROUPS: dict[str, Callable[[np.random.Generator], Scene]] = {
    "one object": _one_object,
    "two objects": _two_objects,
    "small object": _small_object,
    "at the border": _border,
    "low contrast": _low_contrast,
    "phrase": _phrase,
    "background": _background,
    "not there yet": _absent,
    "nothing to change": _unchanged,
}
"""What each group is for. The last two have no exact mask."""


@functools.cache
def _phrases() -> dict[str, str]:
    return {entry["word"]: entry["phrase"] for entry in vocabulary()["backgrounds"]}


@functools.cache
def colours() -> dict[str, NDArray[np.float64]]:
    """The mean RGB of every background, 0 to 255."""
    rng = np.random.default_rng(SEED)
    return {
        word: np.mean([compose(rng, [], word)[0].mean((0, 1)) for _ in range(8)], axis=0) for word in background_words()
    }


@functools.cache
def _like(background: str) -> tuple[str, ...]:
    """The four objects whose mean colour is nearest to the background's."""
    rng = np.random.default_rng(SEED)
    distance = {}
    for word in object_words():
        drawn = [compose(rng, [word], background) for _ in range(8)]
        mean = np.mean([picture[masks[0]].mean(0) for picture, masks in drawn], axis=0)
        distance[word] = float(np.linalg.norm(mean - colours()[background]))
    return tuple(sorted(distance, key=distance.__getitem__)[:4])
