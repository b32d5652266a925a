"""Maps out of attention layers: from queries and keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

GRID = 16
"""Cells across the grid that is read: the paper's 16x16, a quarter of the latent of a 512 px picture."""


Layer = tuple[Tensor, Tensor]
"""The queries and keys of an attention layer, ``[B, heads, N, d]`` each."""


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


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """Queries or keys ``[B, N, heads*d]`` as an attention layer projects them, as ``[B, heads, N, d]``."""
    return rearrange(projected, "b n (heads d) -> b heads n d", heads=heads)


def attend(q: Tensor, k: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """What attention with these queries and keys makes of `values`, as a mean over the heads.

    `q` ``[B, heads, N, d]`` and `k` ``[B, heads, L, d]`` of any float type, in which the attention is
    computed; `values` ``[L, M]`` or ``[B, L, M]``; `mask` as scaled_dot_product_attention takes it.
    Returns ``[B, N, M]`` float32: the softmax's probabilities times the values. It is the library's
    fused attention, with the values in the place of a layer's own, as many at once as a head is
    wide: the probabilities, which may be gigabytes, never exist.
    """
    batch, heads, length, width = k.shape
    results = []
    for part in torch.split(values.to(q), width, -1):
        padded = functional.pad(part, (0, width - part.shape[-1]))
        spread = padded.view(-1, 1, length, width).expand(batch, heads, -1, -1)
        attended = functional.scaled_dot_product_attention(q, k, spread, mask)
        results.append(attended[..., : part.shape[-1]].float().mean(1))
    return results[0] if len(results) == 1 else torch.cat(results, -1)


def attend_together(layers: Sequence[Layer], values: Tensor) -> Tensor:
    """`attend` for layers of one shape, as a mean over the heads of all, computed in float32.

    At once, since to launch the operations of a layer takes longer than a GPU computes them; in float32,
    since some models' scores are beyond float16.
    """
    q, k = (torch.cat(parts, 1).float() for parts in zip(*layers, strict=True))
    return attend(q, k, values)


def word_maps(q: Tensor, k: Tensor, matrix: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Where start, end and every word are attended to, as a mean over the heads.

    `q` ``[B, heads, h*w, d]``, `k` ``[B, heads, L, d]`` and `mask` as for `attend`; `matrix`
    ``[L, 2 + words]`` from `PromptWords.matrix`, with rows of zeros for keys that are no tokens of the
    prompt; `grid` is ``(h, w)``. Returns ``[B, 2 + words, h, w]`` float32, probabilities
    (docs/method.md, 2).
    """
    return to_maps(attend(q, k, matrix, mask), grid)


def to_maps(attended: Tensor, grid: tuple[int, int]) -> Tensor:
    """What `attend` returns, ``[B, h*w, M]``, as maps ``[B, M, h, w]``."""
    return rearrange(attended, "b (h w) m -> b m h w", h=grid[0])
