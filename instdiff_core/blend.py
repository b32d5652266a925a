"""Keep the original outside the mask."""

from __future__ import annotations

from torch import Tensor, where


def keep_original(mask: Tensor, edited: Tensor, original: Tensor) -> Tensor:
    """`edited` inside the mask, `original` outside it (algorithm.md, 2i).

    `edited` and `original` ``[B, C, H, W]`` must be at the same noise level: both clean, or
    `original` noised by the host's or the scheduler's own scaling to exactly the level of
    `edited`. `mask` ``[B, H, W]`` bool. Values are chosen, not mixed, so that either side
    comes out bit for bit.
    """
    return where(mask.unsqueeze(1), edited, original)
