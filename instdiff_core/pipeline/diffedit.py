"""DiffEdit's mask with diffusers models: the peer that instant masks are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import diffedit
from .editing import Mask, ddim, noise_like
from .model import EditModel, Picture

ROWS = 32
"""The most rows of one call of the U-Net."""


@torch.no_grad()
def noise_difference(
    model: EditModel,
    pictures: Sequence[Picture],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    seeds: Sequence[int],
    strength: float = 0.5,
    steps: int = 50,
    noise_samples: int = diffedit.NOISE_SAMPLES,
) -> Tensor:
    """The mean over `noise_samples` of how far apart the two prompts of each picture are, ``[pictures, h, w]`` float32.

    The pictures are of one size. `strength` (above 0, to 1) is the noise level, out of a schedule
    of `steps`, as for `edit`. Raises ``ValueError`` for a value out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 to 1, not {strength}")
    scheduler = ddim(model, steps)
    level = scheduler.timesteps[-max(1, round(steps * strength))]
    image_latents = model.encode(pictures)
    noise = torch.cat([noise_like(image_latents[:1].expand(noise_samples, -1, -1, -1), seed) for seed in seeds])
    source, target = model.context(sources), model.context(targets)
    differences = []
    for entries in torch.split(torch.arange(len(noise), device=image_latents.device), ROWS // 2):
        picture = entries // noise_samples
        noised = scheduler.add_noise(image_latents[picture], noise[entries], level[None])
        both = model.predict(noised.repeat(2, 1, 1, 1), level, torch.cat([target[picture], source[picture]]))
        differences.append(diffedit.measure_disagreement(*both.chunk(2)))
    return torch.cat(differences).view(len(pictures), noise_samples, *image_latents.shape[-2:]).mean(1)


def noise_difference_mask(
    model: EditModel,
    pictures: Sequence[Picture],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    seeds: Sequence[int],
    strength: float = 0.5,
    steps: int = 50,
    noise_samples: int = diffedit.NOISE_SAMPLES,
    ratio: float = diffedit.RATIO,
    threshold: float = diffedit.THRESHOLD,
) -> list[Mask]:
    """Where each picture would change from its source to its target prompt, at the size of the pictures.

    `noise_difference` says what most arguments are; `ratio` and `threshold` are those of
    `diffedit.noise_difference_mask`. The same seed gives the same mask.
    """
    difference = noise_difference(
        model, pictures, sources, targets, seeds=seeds, strength=strength, steps=steps, noise_samples=noise_samples
    )
    size = pictures[0].shape[0], pictures[0].shape[1]
    _, binary = diffedit.noise_difference_mask(difference, size, ratio, threshold)
    return list(binary.cpu().numpy())
