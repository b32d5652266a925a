"""DiffEdit's mask: where two prompts ask the model for different noise (Couairon et al., ICLR 2023, section 3.2).

The steps and defaults are those of ``generate_mask`` of diffusers' StableDiffusionDiffEditPipeline,
but for two: the mean is each picture's own, not that of the whole batch, and the map is brought to
the size of the picture before it is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

RATIO = 3.0
"""What counts as a full difference, in means of the map."""

THRESHOLD = 0.5
"""Where the map is cut."""

NOISE_SAMPLES = 10
"""Draws of noise that a map is the mean of."""


def measure_disagreement(target: Tensor, source: Tensor) -> Tensor:
    """How far two predictions ``[N, C, h, w]``, of any float type, are apart: ``[N, h, w]`` float32, 0 and above.

    Noise, v or clean latents, with or without guidance: at one noise level and with one negative
    prompt they differ by a factor, which `noise_difference_mask` takes out.
    """
    return (target.float() - source.float()).abs().mean(1)


def noise_difference_mask(
    difference: Tensor, size: tuple[int, int], ratio: float = RATIO, threshold: float = THRESHOLD
) -> tuple[Tensor, Tensor]:
    """The soft mask ``[B, H, W]`` float32 in 0..1 and the binary one, bool, at `size`.

    `difference` ``[B, h, w]`` is the mean of `measure_disagreement` over the draws of each picture, in any
    unit. It is 1 in the soft mask from `ratio` times its mean on; the binary mask is where the
    soft one exceeds `threshold`. Both are empty where there is no difference at all.
    """
    full = ratio * difference.mean((-2, -1), keepdim=True)
    soft = (difference / full.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1)
    soft = interpolate(soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return soft, soft > threshold
