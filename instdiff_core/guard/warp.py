"""How an editor bent a picture a little here and there, as it draws hair or cloth anew: a coarse field of shifts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from .align import AGREES, Alignment, differences, gradients, normalize, shrink, weigh

CELL = 16
"""Pixels across a cell of the field, on pictures of half the size."""

ROUNDS = 4
"""How often the field is reckoned anew from where it led."""

STIFF = 0.05
"""How strongly cells are drawn to no shift, as a part of the mean cell's detail: without any, they stay."""


def find_warp(original: Tensor, edited: Tensor, usable: Tensor, alignment: Alignment) -> Tensor:
    """The shifts ``[2, h, w]`` (across, down, in places) that lay an aligned edit better over its original.

    Both grey ``[H, W]`` in 0..1; `usable` ``[H, W]`` bool says what of the original may be compared. Lucas and
    Kanade's method (1981) in the cells of a grid, each with those around it, with Tukey's weights, so that what
    was edited counts for nothing and gets the shifts around it.
    """
    first, second = (
        normalize(shrink(picture, (max(1, picture.shape[0] // 2), max(1, picture.shape[1] // 2))))
        for picture in (original, edited)
    )
    area = shrink(usable.float(), first.shape) > 0.99
    size = torch.tensor(first.shape[::-1]).view(2, 1, 1)
    cells = max(2, round(first.shape[0] / CELL)), max(2, round(first.shape[1] / CELL))
    slopes = gradients(first)
    products = [slopes[0].square(), slopes[0] * slopes[1], slopes[1].square()]
    shifts = torch.zeros(2, *cells)
    for number in range(ROUNDS):
        residual, inside = differences(first, second, replace(alignment, warp=shifts * 2 / size))
        weight = weigh(residual, area & inside)
        values = torch.stack([*products, slopes[0] * residual, slopes[1] * residual]) * weight
        xx, xy, yy, x, y = functional.adaptive_avg_pool2d(values[None], cells)[0]
        x, y = xx * shifts[0] + xy * shifts[1] - x, xy * shifts[0] + yy * shifts[1] - y
        # at first everything is: what is shifted most agrees least
        trusted = _trust(first, residual, cells) if number else 1
        xx, xy, yy, x, y = _spread(torch.stack([xx, xy, yy, x, y]) * trusted)
        stiff = STIFF * (xx + yy).mean() + 1e-9
        xx, yy = xx + stiff, yy + stiff
        shifts = torch.stack([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy)
    return shifts * 2 / size


def _trust(first: Tensor, residual: Tensor, cells: tuple[int, int]) -> Tensor:
    """Which cells show the same in both pictures, ``[h, w]`` 0 or 1: not those that were edited."""
    moved = first + residual
    values = torch.stack([first, moved, first * first, moved * moved, first * moved])
    means = functional.adaptive_avg_pool2d(values[None], cells)[0]
    variances = [means[2] - means[0].square(), means[3] - means[1].square()]
    covariance = means[4] - means[0] * means[1]
    return (covariance > AGREES * (variances[0] * variances[1]).clamp(min=1e-6).sqrt()).float()


def _spread(maps: Tensor) -> Tensor:
    """Maps ``[C, h, w]`` with those of the cells around added."""
    for axis in (1, 2):
        padded = functional.pad(maps[None], (0, 0, 2, 2) if axis == 1 else (2, 2, 0, 0), mode="replicate")[0]
        taps = [padded.narrow(axis, start, maps.shape[axis]) for start in range(5)]
        maps = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
    return maps
