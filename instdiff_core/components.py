"""Masks without specks and holes: by the connected components of a finished mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .arrays import Mask

EIGHT = np.ones((3, 3), np.bool_)
"""What is in a mask is connected over corners too; what is not in it is not, so that lines part it."""


def clean_masks(masks: Tensor, min_area: float) -> Tensor:
    """Bool masks ``[B, H, W]`` without their specks and holes, on the same device, which waits for it.

    Specks are connected components of the mask with less than `min_area` (0 to 1) of the pixels of
    its largest one, and go; holes are as small components of what is then not in it, and are filled.
    """
    if not min_area:
        return masks
    made = np.stack([_clean_mask(mask, min_area) for mask in masks.cpu().numpy()])
    return torch.from_numpy(made).to(masks.device)


def keep_touching(mask: Tensor, hint: Tensor) -> Tensor:
    """The connected components of a bool mask ``[1, H, W]`` that a hint of its shape touches, on the CPU."""
    labels, sizes = _components(mask[0].cpu().numpy(), EIGHT)
    touched = np.zeros(len(sizes), np.bool_)
    touched[labels[hint[0].cpu().numpy()]] = True
    touched[0] = False
    return torch.from_numpy(touched[labels])[None]


def _clean_mask(mask: Mask, min_area: float) -> Mask:
    labels, sizes = _components(mask, EIGHT)
    least = min_area * sizes.max(initial=0)
    mask = mask & (sizes >= least)[labels]
    labels, sizes = _components(~mask, None)
    return mask | ((sizes < least)[labels] & ~mask)


def _components(mask: Mask, structure: Mask | None) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every pixel's component, 0 outside the mask, and their numbers of pixels; 0 has none."""
    labels, _ = ndimage.label(mask, structure)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels, sizes
