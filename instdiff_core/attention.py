"""Maps out of attention layers: from queries and keys."""

from __future__ import annotations

import math
from collections.abc import Iterable

from einops import rearrange
from torch import Tensor

GRID = 16
"""Cells across the grid that is read: the paper's 16x16, a quarter of the latent of a 512 px picture."""


LARGEST_MATRIX = 2**22
"""Probabilities of a picture that are in memory at once: of some heads only, where a layer has more."""


def downscale_to_read(latent_size: tuple[int, int], downscales: Iterable[int]) -> int:
    """Which of the U-Net's downscalings that have cross-attention has its grid nearest to 16x16 (docs/method.md, 2.1).

    An object fills as many cells in a small picture as in a large one, so the number of cells is
    what counts: 1/4 of the latent for 512 px and SD 1.5, 1/2 for 256 px. Raises ``ValueError``
    for no downscalings.
    """
    across = (latent_size[0] * latent_size[1]) ** 0.5
    sizes = {downscale: abs(math.log(across / downscale / GRID)) for downscale in downscales}
    if not sizes:
        raise ValueError("the U-Net has no cross-attention outside its middle: it cannot be read, use another model")
    return min(sizes, key=sizes.__getitem__)


def word_maps(q: Tensor, k: Tensor, heads: int, matrix: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where start, end and every word are attended to, as a mean over the heads.

    `q` ``[B, h*w, heads*d]`` and `k` ``[B, L, heads*d]`` as the attention layer projects them, of
    any float type; `matrix` ``[L, 2 + words]`` from `PromptWords.matrix`; `grid` is ``(h, w)``.
    Returns ``[B, 2 + words, h, w]`` float32, probabilities (docs/method.md, 2).
    """
    return rearrange(_probabilities(q, k, heads) @ matrix, "b (h w) m -> b m h w", h=grid[0])


def affinity(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """How strongly every cell attends to every other in a self-attention layer, as a mean over the heads.

    `q` and `k` ``[B, N, heads*d]`` as the layer projects them, of any float type. Returns
    ``[B, N, N]`` float32, rows adding up to 1. It is meant for the grid that is read, whose 256 to
    1024 cells make a small matrix.
    """
    return _probabilities(q, k, heads)


def _probabilities(q: Tensor, k: Tensor, heads: int) -> Tensor:
    # in float32: some models' scores are beyond float16
    q, k = (rearrange(t, "b n (heads d) -> heads b n d", heads=heads).float() for t in (q, k))
    groups = math.ceil(heads * q.shape[-2] * k.shape[-2] / LARGEST_MATRIX)
    parts = zip((q * q.shape[-1] ** -0.5).chunk(groups), k.chunk(groups), strict=True)
    return sum((queries @ keys.mT).softmax(-1).sum(0) for queries, keys in parts) / heads
