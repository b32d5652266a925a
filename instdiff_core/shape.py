"""The shape of a finished mask: holes filled, edges smoothed, all of it grown or shrunk.

web/widget/shape.js does the same in the browser, where the mask editor must not wait.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .arrays import Mask
from .options import MaskShape


def shape_masks(masks: Tensor, shape: MaskShape) -> Tensor:
    """Bool masks ``[B, H, W]`` in this shape: filled, then smoothed, then grown. Their device waits for it."""
    if shape == MaskShape():
        return masks
    return map_masks(masks, lambda mask, _: _shape_mask(mask, shape))


def map_masks(masks: Tensor, change: Callable[[Mask, int], Mask]) -> Tensor:
    """What `change` makes of each mask ``[H, W]`` and its number, as masks ``[B, H, W]`` on the same device."""
    made = np.stack([change(mask, number) for number, mask in enumerate(masks.cpu().numpy())])
    return torch.from_numpy(made).to(masks.device)


def _shape_mask(mask: Mask, shape: MaskShape) -> Mask:
    if shape.fill_holes:
        mask = ndimage.binary_fill_holes(mask)
    if shape.smooth:
        count, pixels = _count_in_squares(mask, shape.smooth)
        mask = 2 * count > pixels
    if shape.grow:
        count, pixels = _count_in_squares(mask, abs(shape.grow))
        mask = count > 0 if shape.grow > 0 else count == pixels
    return mask


def _count_in_squares(mask: Mask, radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How much of the mask, and how many pixels in all, are up to `radius` from each pixel, diagonals too."""
    height, width = mask.shape
    sums = np.pad(mask.cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
    top, bottom = _bounds(height, radius)
    left, right = _bounds(width, radius)
    count = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    return count, np.outer(bottom - top, right - left)


def _bounds(length: int, radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the neighbourhood of each place begins and ends."""
    places = np.arange(length)
    return np.maximum(places - radius, 0), np.minimum(places + radius + 1, length)
