"""Records and pictures, made up: for tests and measurements that need no run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from instdiff_core.evidence import AttentionRecord
from instdiff_core.tokens import PromptWords, Word


def make_record(
    texts: tuple[str, ...], *, steps: int = 3, batch: int = 1, grid: tuple[int, int] = (16, 16),
    latent: tuple[int, int] = (32, 32), seed: int = 0,
) -> AttentionRecord:  # fmt: skip
    """A record of smooth random maps, as float16 leaves them."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(*shape: int, size: tuple[int, int]) -> torch.Tensor:
        coarse = torch.randn(*shape, 5, 5, generator=generator).flatten(0, -3)[:, None]
        fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
        fine = fine + 0.1 * torch.randn(fine.shape, generator=generator)
        return fine.reshape(*shape, *size)

    count = len(texts)
    words = PromptWords(tuple(Word(text, (i + 1,)) for i, text in enumerate(texts)), (0,), (count + 1,), count + 2)
    maps = smooth(steps, batch, 2 + count, size=grid).exp() * 0.02
    propagated = smooth(steps, batch, 3 + count, size=grid).exp()
    sigmas = tuple(np.geomspace(8, 0.1, steps).tolist())
    return AttentionRecord(maps.half(), propagated.half(), smooth(batch, 4, size=latent).half(), words, sigmas, 8)


def make_pictures(record: AttentionRecord, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures ``[count, H, W, 3]`` with edges, of the record's size."""
    generator = np.random.default_rng(seed)
    height, width = record.image_size
    pictures = np.empty((count, height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width] / 8
    for picture in pictures:
        picture[:] = generator.integers(0, 256, 3)
        for _ in range(6):
            y, x, radius = generator.uniform(0, (height / 8, width / 8, 10))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = generator.integers(0, 256, 3)
    noise = generator.normal(0, 4, pictures.shape)
    return (pictures + noise).clip(0, 255).astype(np.uint8)
