"""DiffEdit's mask with diffusers models: the peer that instant masks are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import diffedit
from ..arrays import Mask, Picture
from ..options import DIFFEDIT, DiffEditOptions
from .denoising import make_noise
from .model import EditModel

LARGEST_BATCH = 32
"""The most latents of one call of the U-Net."""


@torch.no_grad()
def measure_difference(
    model: EditModel,
    pictures: Sequence[Picture],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    seeds: Sequence[int],
    options: DiffEditOptions = DIFFEDIT,
) -> Tensor:
    """How far apart the predictions of the two prompts of each picture are, ``[pictures, h, w]`` float32.

    The mean over the noise samples. The pictures are of one size.
    """
    scheduler, noise_samples = model.scheduler, options.noise_samples
    level = torch.tensor(round(options.strength * (scheduler.config.num_train_timesteps - 1)))
    image_latents = model.encode(pictures)
    noise = make_noise(image_latents, seeds, noise_samples)
    source, target = model.context(sources), model.context(targets)
    differences = []
    for samples in torch.split(torch.arange(len(noise), device=image_latents.device), LARGEST_BATCH // 2):
        picture = samples // noise_samples
        noised = scheduler.add_noise(image_latents[picture], noise[samples], level[None])
        both = model.predict(noised.repeat(2, 1, 1, 1), level, torch.cat([target[picture], source[picture]]))
        differences.append(diffedit.measure_disagreement(*both.chunk(2)))
    return torch.cat(differences).view(len(pictures), noise_samples, *image_latents.shape[-2:]).mean(1)


def find_masks(
    model: EditModel,
    pictures: Sequence[Picture],
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    seeds: Sequence[int],
    options: DiffEditOptions = DIFFEDIT,
) -> list[Mask]:
    """Where each picture would change from its source to its target prompt, at the size of the pictures.

    The same seed gives the same mask.
    """
    difference = measure_difference(model, pictures, sources, targets, seeds=seeds, options=options)
    size = pictures[0].shape[0], pictures[0].shape[1]
    _, binary = diffedit.threshold_difference(difference, size, options)
    return list(binary.cpu().numpy())
