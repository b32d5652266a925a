"""Finds what a prompt is about in a photo that is larger than what the model was made for.

On a copy that is as small as the model needs it, small things are lost. Where that copy gives no sure
mask, the photo is looked at in overlapping tiles; the crop around the place that the prompt contradicts
most is looked at once more, and gives the mask. Where a word says what is there, the place is what the prompt
contradicts and the word explains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from .components import keep_touching
from .evidence import AttentionRecord
from .options import MaskSettings
from .refine import contradiction, explanation, refine_record
from .region import Region, find_regions, working_size

SURE = 0.8
"""The confidence from which on the mask of the small copy is taken."""

TILE = 3
"""Sides of a tile, in sides of what the model was made for, and of larger tiles, in sides of the next smaller ones:
things of a tenth of a tile are still seen, and what fills one is a tenth or more of a larger one, or of the photo."""

AROUND_PEAK = 0.6
"""The side of the crop around the peak, in sides of a tile."""


CORRECTIONS = 4
"""How often a region is made larger because what is seen in it reaches beyond."""

EXPLAINED = 0.5
"""The cells around the peak of a word, with so much of its evidence, are the thing."""

POINT = 1 / 16
"""The side of the square that a point stands for, in sides of the crop around it."""

Point = tuple[float, float]
"""Across and down, in pixels of the photo."""


@dataclass(frozen=True)
class Sighting:
    """What was seen in crops of a photo, on the CPU.

    `mask` ``[N, h, w]`` bool at the size of the crops, `confidence` ``[N]`` 0 to 1, `contradiction` and `explanation`
    ``[N, rows, columns]`` (`refine`).
    """

    mask: Tensor
    confidence: Tensor
    contradiction: Tensor
    explanation: Tensor

    @staticmethod
    def joined(sightings: Sequence[Sighting]) -> Sighting:
        """Several as one batch."""
        return Sighting(
            torch.cat([sighting.mask for sighting in sightings]),
            torch.cat([sighting.confidence for sighting in sightings]),
            torch.cat([sighting.contradiction for sighting in sightings]),
            torch.cat([sighting.explanation for sighting in sightings]),
        )


Look = Callable[[Tensor, bool], Sighting]
"""Samples crops ``[N, h, w, C]`` in 0..1, all of one size, towards the prompt; in `QUICK_STEPS` where it is true."""

AT_ONCE = 8
"""How many tiles are sampled at a time: a photo of 48 megapixels has hundreds for a small model."""

QUICK_STEPS = 2
"""Sampling steps, beside the look before them, in which a tile shows whether the thing is in it."""


def see(record: AttentionRecord, settings: MaskSettings, crops: Tensor) -> Sighting:
    """What a record says of the crops ``[N, h, w, C]`` that were sampled."""
    mask, evidence = refine_record(record, settings, picture=crops[..., :3].movedim(-1, 1)), record.evidence()
    parts = mask.binary, mask.confidence, contradiction(evidence), explanation(evidence)
    return Sighting(*(part.cpu() for part in parts))


def find_in_photo(
    photo: Tensor,
    look: Look,
    pixels: int,
    unit: int,
    hint: Tensor | None = None,
    points: Sequence[Point] = (),
    look_for: Look | None = None,
) -> Tensor:
    """The mask ``[1, H, W]`` bool of what the prompt is about in a photo ``[1, H, W, C]`` in 0..1, or of bytes.

    `pixels` is how many pixels the model was made for, `unit` what the sides of its pictures are
    multiples of. Two things may say where it is, of which the first that does counts; then its surroundings are
    looked at alone, and of what is found there only what touches it is taken; where nothing does, it is itself the
    mask. A `hint` ``[1, H, W]`` bool, a rough mask (an empty one says nothing), and `points` inside the photo, each of
    which stands for a small square, count together. `look_for` is `look` with a word for what is there instead of the
    edit prompt: the place is what the word explains and the prompt contradicts.
    """
    size = photo.shape[1], photo.shape[2]
    tiles = make_tiles(size, pixels, unit)
    whole = Region(0, 0, 0, *size, working_size(*size, pixels, unit))
    place = _hinted(hint, points, size, round(AROUND_PEAK * tiles[0].height))
    if place is None and look_for is not None:
        place = _explained(photo, look, look_for, [whole, *tiles])
    if place is not None:
        (region,) = find_regions(place.around, pixels, unit=unit)
        touching = _look_closely(photo, look, region, pixels, unit, place.touching)
        return touching if touching.any() else place.touching
    sighting = look(whole.cut(photo), False)
    if len(tiles) == 1 or sighting.confidence[0] >= SURE:
        return _place(whole, sighting.mask, size)
    number, middle = _peak(tiles, list(_look_quickly(photo, look, tiles).contradiction))
    side = round(AROUND_PEAK * tiles[number].height)
    peak = Region(0, *_corner(middle, side, size), side, side, tiles[number].size)
    return _look_closely(photo, look, peak, pixels, unit)


def _look_closely(
    photo: Tensor, look: Look, region: Region, pixels: int, unit: int, touching: Tensor | None = None
) -> Tensor:
    """The mask ``[1, H, W]`` of what is seen in a region, or in a larger one around what reaches beyond it.

    Of what is seen only what touches `touching` is taken; None: all of it.
    """
    for _ in range(1 + CORRECTIONS):
        mask = _place(region, look(region.cut(photo), False).mask, (photo.shape[1], photo.shape[2]))
        mask = mask if touching is None else keep_touching(mask, touching)
        if not region.cuts_off(mask):
            break
        (region,) = find_regions(mask, pixels, unit=unit)
    return mask


@dataclass(frozen=True)
class Place:
    """Where a thing is, by bool masks ``[1, H, W]`` on the CPU: what its mask touches, and what its surroundings are
    those of (`region.find_regions`)."""

    touching: Tensor
    around: Tensor


def _hinted(hint: Tensor | None, points: Sequence[Point], size: tuple[int, int], side: int) -> Place | None:
    """The place of hint and points in a photo of a `size`, with `side` pixels of surroundings for a point."""
    touching = torch.zeros(1, *size, dtype=torch.bool) if hint is None else hint.cpu()
    around = touching
    for across, down in points:
        touching = touching | _square((down, across), max(1, round(POINT * side)), size)
        around = around | _square((down, across), side // 2, size)
    return Place(touching, around | touching) if touching.any() else None


def _explained(photo: Tensor, look: Look, look_for: Look, regions: Sequence[Region]) -> Place | None:
    """The part of a photo that a word explains and the prompt contradicts; None where there is none.

    `regions` are all of the photo, for what is larger than a tile, and the tiles.
    """
    size = photo.shape[1], photo.shape[2]
    evidence: list[Tensor] = []
    for group in (regions[:1], regions[1:]):
        contradicted = _look_quickly(photo, look, group).contradiction
        evidence += list(contradicted * _look_quickly(photo, look_for, group).explanation)
    number, middle = _peak(regions, evidence)
    strongest = evidence[number].max()
    if not strongest > 0:
        return None
    cells = keep_touching((evidence[number] >= EXPLAINED * strongest)[None], (evidence[number] == strongest)[None])
    touching = _place(regions[number], cells, size)
    side = round(AROUND_PEAK * regions[max(number, 1)].height)
    return Place(touching, touching | _square(middle, side // 2, size))


def _look_quickly(photo: Tensor, look: Look, tiles: Sequence[Region]) -> Sighting:
    """What is seen in tiles of one working size, `AT_ONCE` at a time."""
    parts = [tiles[first : first + AT_ONCE] for first in range(0, len(tiles), AT_ONCE)]
    return Sighting.joined([look(torch.cat([tile.cut(photo) for tile in part]), True) for part in parts])


def make_tiles(size: tuple[int, int], pixels: int, unit: int) -> list[Region]:
    """Squares `TILE` times as long as what the model was made for, that overlap by half; one, where that is all.

    Then larger ones, `TILE` times as long each, as long as they are shorter than the photo's sides.
    """
    sides = [min(*size, round(TILE * pixels**0.5))]
    while TILE * sides[-1] < min(size):
        sides.append(TILE * sides[-1])
    return [tile for side in sides for tile in _tiles_of(side, size, working_size(side, side, pixels, unit))]


def _tiles_of(side: int, size: tuple[int, int], working: tuple[int, int]) -> list[Region]:
    """Squares of one side all over the photo."""
    starts = [_starts(length, side) for length in size]
    return [Region(0, top, left, side, side, working) for top, left in product(*starts)]


def _starts(length: int, side: int) -> list[int]:
    """Where parts of a length begin that overlap by half and reach its end."""
    count = 1 + max(0, -(-(length - side) * 2 // side))
    return [round(number * (length - side) / max(count - 1, 1)) for number in range(count)]


def _peak(regions: Sequence[Region], maps: Sequence[Tensor]) -> tuple[int, tuple[float, float]]:
    """In which region its map ``[rows, columns]`` is largest, and where in the photo, down and across."""
    number = int(torch.stack([values.max() for values in maps]).argmax())
    rows, columns = maps[number].shape
    row, column = divmod(int(maps[number].argmax()), columns)
    region = regions[number]
    return number, (
        region.top + (row + 0.5) / rows * region.height,
        region.left + (column + 0.5) / columns * region.width,
    )


def _corner(middle: tuple[float, float], side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a square around a place, moved into a photo of a `size`."""
    top, left = (
        min(max(round(place - side / 2), 0), length - side) for place, length in zip(middle, size, strict=True)
    )
    return top, left


def _square(middle: tuple[float, float], side: int, size: tuple[int, int]) -> Tensor:
    """The square of `_corner` as a mask ``[1, H, W]`` bool."""
    top, left = _corner(middle, side, size)
    square = torch.zeros(1, *size, dtype=torch.bool)
    square[:, top : top + side, left : left + side] = True
    return square


def _place(region: Region, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask of a region's crop in the whole photo, ``[1, H, W]`` bool."""
    placed = torch.zeros(1, *size)
    region.mark(placed, mask.float())
    return placed > 0.5
