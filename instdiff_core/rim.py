"""The rim of a mask that shows nothing but the surroundings.

A model that wants to paint something larger than what is there changes a rim around it too. Where the mask holds two
things that differ clearly in their colours, one of them those of its surroundings, that one is taken for the rim.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .components import clean_masks
from .maps import TINY

CUT = 0.5
"""Where a soft mask parts best in two (`maps.centre_threshold`)."""

SPECKS = 0.02
"""The `min_area` (`components.clean_masks`) of the mask whose rim is looked for, whatever that of the settings is."""

AROUND, GAP, NEAR = 0.09, 0.008, 0.028
"""In sides of the picture: the width of the surroundings, their distance from the mask, and the side of the windows in
which pixels are told apart."""

BINS = 12
"""Into how many parts each channel is divided to count colours."""

SMOOTH = 0.7
"""The sigma, in such parts, of the Gaussian over the counts."""

SMALLEST, LARGEST = 0.15, 0.85
"""The part of a mask that may be a rim."""

CLEAR, MIXED = 0.85, 0.25
"""How probable the surroundings' colours are in the rim at least, and in what is left at most."""


def lower_rims(soft: Tensor, pictures: Tensor, where: Tensor) -> Tensor:
    """Soft masks ``[B, H, W]`` in 0..1 whose rims, and what is outside them, are lowered below `CUT`.

    `pictures` ``[B, 3, H, W]`` in 0..1; `where` ``[B]`` bool, which masks may have a rim. A mask without a clear rim
    stays as it is. What is lowered keeps its order, so that a lower threshold takes the rim in again. On the masks'
    device, which waits for it.
    """
    masks = clean_masks(soft >= CUT, SPECKS)
    return torch.stack([
        _lower(one, mask, find_rim(mask, picture)) if may else one
        for one, mask, picture, may in zip(soft, masks, pictures, where, strict=True)
    ])  # fmt: skip


def _lower(soft: Tensor, mask: Tensor, rim: Tensor) -> Tensor:
    if not rim.any():
        return soft
    return torch.where(mask & ~rim, soft, soft * (0.99 * CUT / soft[rim].amax()).clamp(max=1))


def find_rim(mask: Tensor, picture: Tensor) -> Tensor:
    """The part of a mask ``[H, W]`` bool that shows nothing but its surroundings, ``[H, W]`` bool; empty where unclear.

    The colours of `picture` ``[3, H, W]`` in the mask are taken for a mixture of those around it and of others; a
    pixel belongs to the rim where, by its colour and those beside it, it is more likely of the first, and where it is
    reached from outside through such pixels.
    """
    nothing = torch.zeros_like(mask)
    side = min(mask.shape)
    gap = max(1, round(GAP * side))
    around = _grown(mask, round(AROUND * side)) & ~_grown(mask, gap)
    if not (around.any() and mask.any()):
        return nothing
    colours = _colours(picture)
    outside, inside = (_count(colours[part]) for part in (around, mask))
    share = _share(outside, inside)
    likely = (share * outside / inside.clamp(min=TINY**2)).clamp(max=1)[colours]
    surroundings = mask & (_smoothed(likely * mask, NEAR * side) > CUT * _smoothed(mask.float(), NEAR * side))
    # by single pixels: an outline, however thin, ends the rim
    rim = surroundings & _grown(_reached(surroundings & (likely > CUT), ~mask), gap)
    thing = mask & ~rim
    part = float(rim.sum() / mask.sum())
    clear = min(part, share) >= SMALLEST and max(part, share) <= LARGEST
    return rim if clear and likely[rim].mean() >= CLEAR and likely[thing].mean() <= MIXED else nothing


def _colours(picture: Tensor) -> Tensor:
    """The number of each pixel's colour ``[H, W]`` int64."""
    red, green, blue = (picture * BINS).long().clamp(0, BINS - 1)
    return (red * BINS + green) * BINS + blue


def _count(colours: Tensor) -> Tensor:
    """The part of some pixels that has each colour, also near ones, ``[BINS ** 3]``."""
    counts = torch.bincount(colours, minlength=BINS**3).float() / len(colours)
    cube = counts.view(BINS, BINS, BINS)
    for _ in range(3):  # along one axis each, which then is the first
        cube = _along_last(cube).movedim(-1, 0)
    return cube.flatten()


def _along_last(cube: Tensor) -> Tensor:
    taps = torch.exp(-torch.arange(-2, 3, device=cube.device).float().square() / (2 * SMOOTH**2))
    lines = functional.conv1d(cube.reshape(-1, 1, BINS), (taps / taps.sum()).view(1, 1, -1), padding=2)
    return lines.view(cube.shape)


def _share(outside: Tensor, inside: Tensor) -> float:
    """How much of the mixture `inside` is `outside`: the median of their ratio, over the colours outside."""
    ratio, order = (inside / outside.clamp(min=TINY**2)).sort()
    reached = outside[order].cumsum(0) / outside.sum()
    return min(1.0, float(ratio[int((reached < 0.5).sum())]))


def _smoothed(values: Tensor, window: float) -> Tensor:
    """The mean of values ``[H, W]`` over windows of an odd side."""
    return torch.from_numpy(ndimage.uniform_filter(values.cpu().numpy(), 2 * round(window / 2) + 1)).to(values.device)


def _grown(mask: Tensor, by: int) -> Tensor:
    """A mask ``[H, W]`` bool, made larger by so many pixels."""
    return torch.from_numpy(ndimage.maximum_filter(mask.cpu().numpy(), 2 * by + 1)).to(mask.device)


def _reached(places: Tensor, outside: Tensor) -> Tensor:
    """Which of some places can be reached from `outside` through them, all ``[H, W]`` bool."""
    labels, _ = ndimage.label((places | outside).cpu().numpy())
    numbers = np.unique(labels[outside.cpu().numpy()])
    return places & torch.from_numpy(np.isin(labels, numbers)).to(places.device)
