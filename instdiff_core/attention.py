"""Cross-attention maps of words: from queries and keys, and the record of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .tokens import PromptWords

GRID = 16
"""Cells across the grid that is read: the paper's 16x16, a quarter of the latent of a 512 px picture."""


def downscale_to_read(latent_size: tuple[int, int], downscales: Iterable[int]) -> int:
    """Which of the U-Net's downscalings that have cross-attention has its grid nearest to 16x16 (algorithm.md, 2b).

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
    Returns ``[B, 2 + words, h, w]`` float32, probabilities (algorithm.md, 2b and 2c).
    """
    q, k = (rearrange(t, "b n (heads d) -> b heads n d", heads=heads).float() for t in (q, k))
    probabilities = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).mean(1)
    return rearrange(probabilities @ matrix, "b (h w) m -> b m h w", h=grid[0])


@dataclass(frozen=True)
class AttentionRecord:
    """What a run's cross-attention said, kept to be refined again without sampling.

    `maps` ``[steps, batch, 2 + words, h, w]`` float16 on the CPU: start, end, then the words, mean
    over heads and layers; one entry for each model call that saw the edit prompt. `sigmas` are
    the noise levels of those calls, `latent_size` is ``(H, W)`` in latent pixels, and `scale` the
    image pixels in one latent pixel.
    """

    maps: Tensor
    words: PromptWords
    sigmas: tuple[float, ...]
    latent_size: tuple[int, int]
    scale: int

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in image pixels."""
        return self.latent_size[0] * self.scale, self.latent_size[1] * self.scale


class Recorder:
    """Collects the maps of the layers of a step, and of the steps of a run, on their device."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._layers = 0
        self._total: Tensor | None = None
        self._steps: list[Tensor] = []
        self._sigmas: list[Tensor] = []

    def add(self, maps: Tensor) -> None:
        """Add the maps ``[B, 2 + words, h, w]`` of one layer to the step that is under way."""
        self._sum = maps if self._sum is None else self._sum + maps
        self._layers += 1

    def close_step(self, sigma: Tensor) -> bool:
        """End the step that was denoised from `sigma`; false when no layer saw the edit prompt in it."""
        if self._sum is None:
            return False
        step = self._sum / self._layers
        self._total = step if self._total is None else self._total + step
        self._steps.append(step.half())
        self._sigmas.append(sigma)
        self.drop_step()
        return True

    def drop_step(self) -> None:
        """Forget the step that is under way."""
        self._sum, self._layers = None, 0

    @property
    def first_step(self) -> bool:
        """Whether exactly one step is closed."""
        return len(self._steps) == 1

    def mean(self) -> Tensor:
        """The running mean over all closed steps, ``[B, 2 + words, h, w]`` float32."""
        if self._total is None:
            raise ValueError("no step has been recorded yet")
        return self._total / len(self._steps)

    def freeze(self, words: PromptWords, latent_size: tuple[int, int], scale: int) -> AttentionRecord:
        """Hand the record over, on the CPU. Raises ``ValueError`` when nothing was recorded."""
        if not self._steps:
            raise ValueError(
                "the model never attended to the edit prompt: its cross-attention was switched off or replaced, "
                "or the prompt was limited to steps that were not sampled"
            )
        maps = torch.stack(self._steps).cpu()
        sigmas = tuple(float(sigma) for sigma in torch.stack(self._sigmas).cpu())
        return AttentionRecord(maps, words, sigmas, latent_size, scale)
