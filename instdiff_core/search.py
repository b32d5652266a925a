"""Finds what a prompt is about in a photo that is larger than what the model was made for.

On a copy that is as small as the model needs it, small things are lost. Where that copy gives no sure
mask, the photo is looked at in overlapping tiles; the crop around the place that the prompt contradicts
most is looked at once more, and gives the mask.
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
from .refine import contradiction, refine_record
from .region import Region, find_regions, working_size

SURE = 0.8
"""The confidence from which on the mask of the small copy is taken."""

TILE = 3
"""Sides of a tile, in sides of what the model was made for: things of a tenth of it are still seen."""

AROUND_PEAK = 0.6
"""The side of the crop around the peak, in sides of a tile."""


@dataclass(frozen=True)
class Sighting:
    """What was seen in crops of a photo, on the CPU.

    `mask` ``[N, h, w]`` bool at the size of the crops, `confidence` ``[N]`` 0 to 1, and `contradiction`
    ``[N, rows, columns]`` (`refine.contradiction`).
    """

    mask: Tensor
    confidence: Tensor
    contradiction: Tensor

    @staticmethod
    def joined(sightings: Sequence[Sighting]) -> Sighting:
        """Several as one batch."""
        return Sighting(
            torch.cat([sighting.mask for sighting in sightings]),
            torch.cat([sighting.confidence for sighting in sightings]),
            torch.cat([sighting.contradiction for sighting in sightings]),
        )


Look = Callable[[Tensor, bool], Sighting]
"""Samples crops ``[N, h, w, C]`` in 0..1, all of one size, towards the prompt; in `QUICK_STEPS` where it is true."""

AT_ONCE = 8
"""How many tiles are sampled at a time: a photo of 48 megapixels has hundreds for a small model."""

QUICK_STEPS = 3
"""Sampling steps in which a tile shows whether the thing is in it."""


def see(record: AttentionRecord, settings: MaskSettings, crops: Tensor) -> Sighting:
    """What a record says of the crops ``[N, h, w, C]`` that were sampled."""
    mask = refine_record(record, settings, picture=crops[..., :3].movedim(-1, 1))
    return Sighting(mask.binary.cpu(), mask.confidence.cpu(), contradiction(record.evidence()).cpu())


def find_in_photo(photo: Tensor, look: Look, pixels: int, unit: int, hint: Tensor | None = None) -> Tensor:
    """The mask ``[1, H, W]`` bool of what the prompt is about in a photo ``[1, H, W, C]`` in 0..1, or of bytes.

    `pixels` is how many pixels the model was made for, `unit` what the sides of its pictures are
    multiples of. A `hint` ``[1, H, W]`` bool says roughly where it is: then the surroundings of the hint are
    looked at alone, and of what is found there only what touches the hint is taken; where nothing does, the hint
    is. An empty one says nothing.
    """
    height, width = photo.shape[1], photo.shape[2]
    if hint is not None and hint.any():
        (region,) = find_regions(hint, pixels, unit=unit)
        found = keep_touching(_place(region, look(region.cut(photo), False).mask, (height, width)), hint)
        return found if found.any() else hint.cpu()
    whole = Region(0, 0, 0, height, width, working_size(height, width, pixels, unit))
    sighting = look(whole.cut(photo), False)
    tiles = make_tiles((height, width), pixels, unit)
    if len(tiles) == 1 or sighting.confidence[0] >= SURE:
        return _place(whole, sighting.mask, (height, width))
    parts = [tiles[first : first + AT_ONCE] for first in range(0, len(tiles), AT_ONCE)]
    sightings = [look(torch.cat([tile.cut(photo) for tile in part]), True) for part in parts]
    peak = _around_peak(tiles, Sighting.joined(sightings), (height, width))
    return _place(peak, look(peak.cut(photo), False).mask, (height, width))


def make_tiles(size: tuple[int, int], pixels: int, unit: int) -> list[Region]:
    """Squares `TILE` times as long as what the model was made for, that overlap by half; one, where that is all."""
    side = min(*size, round(TILE * pixels**0.5))
    working = working_size(side, side, pixels, unit)
    starts = [_starts(length, side) for length in size]
    return [Region(0, top, left, side, side, working) for top, left in product(*starts)]


def _starts(length: int, side: int) -> list[int]:
    """Where parts of a length begin that overlap by half and reach its end."""
    count = 1 + max(0, -(-(length - side) * 2 // side))
    return [round(number * (length - side) / max(count - 1, 1)) for number in range(count)]


def _around_peak(tiles: list[Region], sighting: Sighting, size: tuple[int, int]) -> Region:
    """The square around the place that the prompt contradicts most."""
    rows, columns = sighting.contradiction.shape[1:]
    number, cell = divmod(int(sighting.contradiction.argmax()), rows * columns)
    row, column = divmod(cell, columns)
    tile = tiles[number]
    side = round(AROUND_PEAK * tile.height)
    middle = (
        tile.top + (row + 0.5) / rows * tile.height,
        tile.left + (column + 0.5) / columns * tile.width,
    )
    top, left = (
        min(max(round(place - side / 2), 0), length - side) for place, length in zip(middle, size, strict=True)
    )
    return Region(0, top, left, side, side, tile.size)


def _place(region: Region, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask of a region's crop in the whole photo, ``[1, H, W]`` bool."""
    placed = torch.zeros(1, *size)
    region.mark(placed, mask.float())
    return placed > 0.5
