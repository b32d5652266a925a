"""Where an edit is: where two pictures in register differ more than such places usually do."""

from __future__ import annotations

import kornia.color
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..arrays import Mask
from .align import box

SURE, UNSURE = 6.0, 2.2
"""How many times the usual difference is an edit, and how many are if they are connected to one."""

PEAK, REACH = 0.5, 4
"""An edit's border is where the difference is this part of the largest within so many pixels, which are its blur."""

BINS = 12
"""Kinds of places, by local contrast, each with a usual difference of its own."""

FLOOR = 0.5
"""No difference (in CIELAB) below this is unusual."""

CLOSE, SMALLEST = 3, 60
"""Gaps of twice so many pixels are closed, and areas of fewer dropped, at 1024 pixels of the longer side."""

JOIN = 0.18
"""Gaps of twice this part of a thick edit's radius are closed too: places that happen to look as before."""

NEAR = np.ones((3, 3), np.bool_)

SAMPLE = 30_000
"""Places by which it is reckoned what is usual."""


def find_edit(original: Tensor, aligned: Tensor, usable: Tensor, unchanged: Tensor, sensitivity: float = 0.5) -> Tensor:
    """Where an aligned edit, in the original's colours, is another picture: ``[h, w]`` bool.

    Both ``[h, w, 3]`` in 0..1; `usable` ``[h, w]`` bool says where there is something to compare, `unchanged`
    where nothing seems to be edited, as far as is known. The difference of their colours (CIELAB), smoothed,
    is taken as a multiple of what is usual, where nothing is edited, at places of the same contrast: at edges
    an editor's softness alone makes a large one. From 0 to 1, `sensitivity` doubles the multiples that are an
    edit, or halves them.
    """
    difference = _Difference(original, aligned, usable)
    unusual = difference.rate(unchanged)
    factor = 4 ** (0.5 - sensitivity)
    values = unusual.numpy()
    # by what is usual anywhere: with edits found left out, and more found for it, there would be no end
    core = difference.rate(usable).numpy() > SURE * factor
    if not core.any():
        return torch.zeros_like(usable)
    peak = ndimage.maximum_filter(values, 2 * REACH + 1)
    wide = (values > UNSURE * factor) & (values > PEAK * peak)
    labels, _ = ndimage.label(wide, NEAR)
    kept = np.unique(labels[core & wide])
    return torch.from_numpy(_tidy(np.isin(labels, kept[kept > 0]), max(usable.shape) / 1024) & usable.numpy())


def measure_change(first: Tensor, second: Tensor, area: Tensor, part: float) -> float:
    """The difference (CIELAB) that a `part` of an area ``[h, w]`` bool stays below, on a quarter-size copy."""
    values = first, second, area[..., None].float()
    small, other, share = (_halve(each.movedim(-1, 0)).movedim(0, -1) for each in values)
    difference = _halve(_blur(_subtract(small, other)[0]))
    inside = _halve(share.movedim(-1, 0))[0] > 0.9
    return float(_measure(difference)[inside].quantile(part)) if inside.any() else 0.0


class _Difference:
    """How two pictures ``[h, w, 3]`` differ where `usable` ``[h, w]``, fine and coarse, and at what contrast."""

    def __init__(self, original: Tensor, aligned: Tensor, usable: Tensor) -> None:
        difference, grey = _subtract(original, aligned)
        difference = difference * usable
        coarse = _enlarge(_blur(_blur(_halve(difference))), grey.shape)
        self._sizes = [_measure(each) for each in (_blur(difference), coarse)]
        self._contrast = (box(grey.square(), 4) - box(grey, 4).square()).clamp(min=0).sqrt()

    def rate(self, among: Tensor) -> Tensor:
        """How many times the usual difference it is, by the places `among` ``[h, w]`` bool, ``[h, w]``.

        Usual is the median of those at places of like contrast, or of a higher one where that is smaller: all
        smooth places may be those of one thing, which was edited.
        """
        sample = among.flatten().nonzero()[:, 0]
        if not len(sample):
            return torch.zeros_like(self._contrast)
        sample = sample[:: max(1, len(sample) // SAMPLE)]
        contrasts = self._contrast.flatten()[sample]
        groups = [group for group in contrasts.argsort().chunk(BINS) if len(group)]
        centres = torch.stack([contrasts[group].median() for group in groups])
        rates = []
        for sizes in self._sizes:
            values = sizes.flatten()[sample]
            medians = torch.stack([values[group].median() for group in groups])
            usual = medians.flip(0).cummin(0).values.flip(0)
            here = np.interp(self._contrast.numpy(), centres.numpy(), usual.numpy())
            rates.append(sizes / (1.4826 * torch.from_numpy(here).float() + FLOOR))
        return torch.maximum(*rates)


def _subtract(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The difference of two pictures ``[h, w, 3]`` in CIELAB, ``[3, h, w]``, and the first one's lightness."""
    lab = kornia.color.rgb_to_lab(torch.stack([first, second]).movedim(-1, 1).clamp(0, 1))
    return lab[0] - lab[1], lab[0, 0]


def _measure(difference: Tensor) -> Tensor:
    """How large a difference ``[3, h, w]`` in CIELAB is, ``[h, w]``."""
    return difference.square().sum(0).sqrt()


def _tidy(mask: Mask, scale: float) -> Mask:
    """A mask without specks, gaps and holes."""
    labels, _ = ndimage.label(mask, NEAR)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = (sizes >= SMALLEST * scale**2)[labels]
    if not mask.any():
        return mask
    rows, columns = ndimage.find_objects(mask.astype(np.int8))[0]
    part = _close(mask[rows, columns], max(1, round(CLOSE * scale)))
    thick = JOIN * float(ndimage.distance_transform_edt(np.pad(part, 1)).max())
    if thick > CLOSE * scale:
        part = _close(part, round(thick))
    mask[rows, columns] = part
    return mask


def _close(mask: Mask, radius: int) -> Mask:
    """A mask without gaps of up to twice a radius, and without holes."""
    padded = np.pad(mask, radius + 1)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    inner = slice(radius + 1, -radius - 1)
    return mask | ndimage.binary_fill_holes(closed)[inner, inner]


def _blur(maps: Tensor) -> Tensor:
    """Maps ``[C, h, w]`` under the binomial of five taps (a standard deviation of one pixel), with repeated borders."""
    padded = functional.pad(maps[None], (2, 2, 2, 2), mode="replicate")[0]
    for axis in (1, 2):
        taps = [padded.narrow(axis, start, padded.shape[axis] - 4) for start in range(5)]
        # sums of slices: many times faster on a CPU than a convolution of few channels
        padded = (taps[0] + taps[4]).add_(taps[1] + taps[3], alpha=4).add_(taps[2], alpha=6) / 16
    return padded


def _halve(maps: Tensor) -> Tensor:
    return functional.avg_pool2d(maps[None], 2, ceil_mode=True, count_include_pad=False)[0]


def _enlarge(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(maps[None], tuple(size), mode="bilinear")[0]
