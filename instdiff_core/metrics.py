"""How right a mask is, and how untouched the rest of a picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two bool masks of one shape; 1.0 when both are empty."""
    union = np.logical_or(mask, truth).sum()
    return float(np.logical_and(mask, truth).sum() / union) if union else 1.0


def psnr_outside(before: NDArray[np.uint8], after: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """PSNR in dB of two ``[H, W, 3]`` uint8 pictures where `mask` is false; ``inf`` when equal there."""
    difference = before[~mask].astype(np.float64) - after[~mask]
    error = float(np.square(difference).mean()) if difference.size else 0.0
    return 10 * math.log10(255**2 / error) if error else math.inf
