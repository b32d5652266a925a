"""What tests of whole edits share."""

from typing import Any

import numpy as np

from instdiff_core.options import FinishOptions, SamplingOptions

FEW: dict[str, Any] = {"sampling": SamplingOptions(2), "finishing": FinishOptions(2, strength=0.5)}


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Every pixel with one of the mask in the square of `pixels` around it."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, pixels), (2 * pixels + 1,) * 2)
    return np.asarray(windows.any((-2, -1)))
