"""The mask's outline, drawn into the latents that are shown while sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d


def find_white_and_black(factors: Sequence[Sequence[float]], bias: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """The smallest latents ``[C]`` that are shown as white and as black, on the CPU.

    By the linear preview of a kind of latents: its `factors` ``[C, 3]`` and `bias` ``[3]`` take a
    latent pixel to a colour in -1..1.
    """
    inverse = torch.linalg.pinv(torch.tensor(factors))
    offset = torch.tensor(bias) if bias else torch.zeros(3)
    return (1 - offset) @ inverse, (-1 - offset) @ inverse


def draw_marching_ants(latents: Tensor, mask: Tensor, light: Tensor, dark: Tensor, step: int) -> Tensor:
    """The latents ``[B, C, H, W]`` with the outline of `mask` ``[B, H, W]`` bool, as a new tensor.

    The outline is the mask's own outermost pixels; the border of the picture is no edge. Its
    dashes are `light` and `dark` ``[C]`` by turns, so that it is seen on any picture, and move on
    with every `step`.
    """
    outline = mask & (max_pool2d((~mask).float()[:, None], 3, 1, 1)[:, 0] > 0)
    down, across = (torch.arange(length, device=mask.device) for length in mask.shape[-2:])
    # one place down is one on in the pattern and one across is two, so that diagonals have dashes too
    is_light = (down[:, None] + 2 * across + step) % 4 < 2
    dashes = torch.where(is_light, light[:, None, None], dark[:, None, None])
    return torch.where(outline[:, None], dashes.to(latents), latents)
