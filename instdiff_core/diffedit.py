"""DiffEdit's mask: where two prompts ask the model for different noise (Couairon et al., ICLR 2023, section 3.2).

The steps are those of ``generate_mask`` of diffusers' StableDiffusionDiffEditPipeline,
but for two: the mean is each picture's own, not that of the whole batch, and the map is brought to
the size of the picture before the threshold is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .options import DIFFEDIT, DiffEditOptions


def measure_disagreement(target: Tensor, source: Tensor) -> Tensor:
    """How far two predictions ``[N, C, h, w]``, of any float type, are apart: ``[N, h, w]`` float32, 0 and above.

    Noise, v or clean latents, with or without guidance: at one noise level and with one negative
    prompt they differ by a factor, which `threshold_difference` takes out.
    """
    return (target.float() - source.float()).abs().mean(1)


def threshold_difference(
    difference: Tensor, size: tuple[int, int], options: DiffEditOptions = DIFFEDIT
) -> tuple[Tensor, Tensor]:
    """The soft mask ``[B, H, W]`` float32 in 0..1 and the binary one, bool, at `size`.

    `difference` ``[B, h, w]`` is the mean of `measure_disagreement` over the noise samples of each
    picture, in any unit. It is 1 in the soft mask from the options' ratio times its mean on; the
    binary mask is where the soft one exceeds their threshold. Both are empty where there is no
    difference at all.
    """
    full = options.ratio * difference.mean((-2, -1), keepdim=True)
    soft = (difference / full.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1)
    soft = interpolate(soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return soft, soft > options.threshold
