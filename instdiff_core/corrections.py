"""What a person corrects in a finished mask by hand: strokes of a brush, and parts that are not wanted.

web/widget/corrections.js reads, writes and applies the same in the browser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .arrays import Mask
from .components import EIGHT
from .shape import map_masks

UNITS = 4096
"""Lengths and places are whole numbers of this part of the picture's longer side, from its upper left corner."""

FARTHEST = 4 * UNITS
"""How far from that corner a place may be, and how long a length."""

NUMBERS = {"add": 3, "erase": 3, "drop": 2}
"""The actions, and how many numbers each has for a place."""


@dataclass(frozen=True)
class Action:
    """One thing done by hand.

    "add" and "erase" are strokes: `places` ``[N, 3]`` int64 are points along it, x, y and the radius
    of the brush, which changes evenly from point to point. "drop" takes out the part of the mask in
    which its first place is, ``[N, 2]``; further ones are of parts that were kept then. Where one of them
    is now in the same part, that is divided: every pixel goes with the place that is nearest.
    """

    name: str
    places: NDArray[np.int64]


@dataclass(frozen=True)
class Corrections:
    """Actions by the number of the picture in its batch, in the order in which they were done."""

    actions: Mapping[int, tuple[Action, ...]]

    @classmethod
    def read(cls, text: str) -> Corrections:
        """Read a text such as ``{"0": [["add", [2048, 1024, 80, 40, 0, 0]], ["drop", [700, 650]]]}``; empty: none.

        Of a stroke, all points but the first are told by their distance from the one before. Raises
        ``ValueError`` with the end of a sentence for any other text: it may come from anyone.
        """
        if not text.strip():
            return cls({})
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("holds no corrections that can be read (it is no JSON)") from None
        if not isinstance(values, dict) or not all(
            len(number) <= 4 and number.isascii() and number.isdigit() and isinstance(actions, list)
            for number, actions in values.items()
        ):
            raise ValueError("must hold a list of corrections for the number of each picture, from 0 on")
        return cls({int(number): tuple(map(_read_action, actions)) for number, actions in values.items()})

    def apply(self, masks: Tensor) -> Tensor:
        """Bool masks ``[B, H, W]``, corrected, on the same device, which waits for it."""
        if not any(self.actions.get(number) for number in range(len(masks))):
            return masks
        return map_masks(masks, self._correct)

    def _correct(self, mask: Mask, number: int) -> Mask:
        mask = mask.copy()
        for action in self.actions.get(number, ()):
            places = action.places * (max(mask.shape) / UNITS)
            if action.name == "drop":
                _drop(mask, np.floor(places).astype(np.int64))
            else:
                _draw(mask, places, action.name == "add")
        return mask


def _read_action(value: Any) -> Action:
    name, numbers = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if not isinstance(name, str) or name not in NUMBERS or not isinstance(numbers, list):
        raise ValueError(f"must hold corrections such as {', '.join(NUMBERS)}, each with a list of numbers")
    if not all(type(number) is int and abs(number) <= FARTHEST for number in numbers):
        raise ValueError(f"holds something other than whole numbers from {-FARTHEST} to {FARTHEST}")
    count = NUMBERS[name]
    if not numbers or len(numbers) % count:
        raise ValueError(f"holds the correction {name!r} with {len(numbers)} numbers, and {count} make a place")
    places = np.array(numbers, np.int64).reshape(-1, count)
    if name != "drop":
        places = places.cumsum(0)
        if abs(places).max() > FARTHEST or places[:, 2].min() < 0:
            raise ValueError("holds a stroke that leaves the picture far behind, or has a radius below 0")
    return Action(name, places)


def _draw(mask: Mask, points: NDArray[np.float64], value: bool) -> None:
    """Set a mask where a stroke covers the middle of a pixel; `points` ``[N, 3]`` are in pixels."""
    lines = pairwise(points.tolist() if len(points) > 1 else points.tolist() * 2)
    for start, end in lines:
        _draw_line(mask, start, end, value)


def _draw_line(mask: Mask, start: list[float], end: list[float], value: bool) -> None:
    """Set a mask from one point of a stroke to the next: within the radius of the nearest point of the line.

    The browser computes the same numbers in the same order, so that no pixel differs.
    """
    height, width = mask.shape
    (x, y, radius), (end_x, end_y, end_radius) = start, end
    most = max(radius, end_radius)
    left, right = _clip(min(x, end_x) - most, width), _clip(max(x, end_x) + most + 1, width)
    top, bottom = _clip(min(y, end_y) - most, height), _clip(max(y, end_y) + most + 1, height)
    across, down = end_x - x, end_y - y
    length = across * across + down * down
    columns, rows = np.arange(left, right) + 0.5 - x, (np.arange(top, bottom) + 0.5 - y)[:, None]
    share = ((columns * across + rows * down) / length).clip(0, 1) if length else np.zeros((bottom - top, 1))
    off_x, off_y = columns - share * across, rows - share * down
    reach = radius + share * (end_radius - radius)
    mask[top:bottom, left:right][off_x * off_x + off_y * off_y <= reach * reach] = value


def _clip(place: float, length: int) -> int:
    return min(max(int(np.floor(place)), 0), length)


def _drop(mask: Mask, places: NDArray[np.int64]) -> None:
    """Take a part out of a mask, as `Action` says; `places` ``[N, 2]`` are pixels."""
    inside: Mask = np.all((places >= 0) & (places < mask.shape[::-1]), 1)
    if not inside[0]:
        return
    labels, _ = ndimage.label(mask, EIGHT)
    (x, y), *others = places[inside].tolist()
    if not labels[y, x]:
        return
    rows, columns = np.nonzero(labels == labels[y, x])
    distance = (columns - x) ** 2 + (rows - y) ** 2
    nearest = np.ones(len(rows), np.bool_)
    for other_x, other_y in others:
        if labels[other_y, other_x] == labels[y, x]:
            nearest &= distance < (columns - other_x) ** 2 + (rows - other_y) ** 2
    mask[rows[nearest], columns[nearest]] = False
