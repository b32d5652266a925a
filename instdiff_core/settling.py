"""When the mask of a run has settled, and the part of the latent that has to be computed from then on."""

from __future__ import annotations

from torch import Tensor

from .metrics import iou
from .region import WHOLE

AGREEING = 0.9
"""The IoU from which on the masks of two steps agree."""

SURE = 0.7
"""The confidence below which no mask counts as settled."""

STEADY = 4
"""How many times in a row the mask must agree with that of the step before."""

Frame = tuple[slice, slice]
"""Rows and columns."""


class Settling:
    """Whether the masks of a run have settled: those of every picture of the batch, over some steps."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._agreed = 0

    def add(self, mask: Tensor, confidence: Tensor, is_steady: bool = False) -> bool:
        """Take the mask ``[B, H, W]`` bool of a step and its confidence ``[B]``; true when the masks have settled.

        One that `is_steady`, which no step changes, settles at once where it is sure. Waits for the device.
        """
        last, self._last = self._last, mask
        sure = (confidence >= SURE) & mask.flatten(1).any(1)
        if is_steady:
            return bool(sure.all())
        if last is None:
            return False
        agreed = (iou(last, mask) >= AGREEING) & sure
        self._agreed = self._agreed + 1 if bool(agreed.all()) else 0
        return self._agreed >= STEADY


def frame_masks(masks: Tensor, margin: int, unit: int) -> Frame | None:
    """The rectangle around masks ``[B, H, W]`` bool, with `margin` pixels more on each side, by multiples of `unit`.

    It is the same for all of the batch, and ends where the picture does. None where the masks are empty,
    and where it would be most of the picture. Waits for the device.
    """
    height, width = masks.shape[-2:]
    rows, columns = (masks.any(0).any(axis).nonzero().flatten().cpu() for axis in (1, 0))
    if not len(rows):
        return None
    down = _span(int(rows[0]), int(rows[-1]) + 1, height, margin, unit)
    across = _span(int(columns[0]), int(columns[-1]) + 1, width, margin, unit)
    area = (down.stop - down.start) * (across.stop - across.start)
    return None if area > WHOLE * height * width else (down, across)


def _span(start: int, stop: int, limit: int, margin: int, unit: int) -> slice:
    return slice(max(start - margin, 0) // unit * unit, min(-(-(stop + margin) // unit) * unit, limit))
