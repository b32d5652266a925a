"""What an edit changed: in figures, and as pictures to look at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

AMPLIFIED = 4
"""How many times brighter than it is a difference is shown."""

ORANGE, BLUE = (1.0, 0.6, 0.0), (0.0, 0.4, 1.0)
"""The colours of the first mask and the other. They are told apart by every kind of sight, and add up to white."""


def ssim(before: Tensor, after: Tensor) -> Tensor:
    """The structural similarity of two pictures ``[B, H, W, C]`` in 0..1, as a map of their shape.

    From -1 to 1: 1 where they are equal, 0 where they have nothing in common, below 0 where one is
    bright as the other gets dark (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5). Beyond
    the border the pictures go on as they end.
    """
    away = torch.arange(-5, 6, dtype=torch.float32, device=before.device)
    window = torch.exp(-(away**2) / (2 * 1.5**2))
    window = window / window.sum()

    def around(x: Tensor) -> Tensor:
        rows = pad(x.movedim(-1, 1).flatten(0, 1)[:, None], (5, 5, 5, 5), mode="replicate")
        mean = conv2d(conv2d(rows, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
        return mean.view(x.shape[0], x.shape[3], *x.shape[1:3]).movedim(1, -1)

    x, y = before.float(), after.float()
    mean_x, mean_y = around(x), around(y)
    spread = around(x * x) - mean_x**2 + around(y * y) - mean_y**2
    together = around(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return light * (2 * together + 0.03**2) / (spread + 0.03**2)


def ssim_outside(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """The mean of `ssim` where `mask` ``[B, H, W]`` bool is false, ``[B]`` in -1..1; 1 where it is true everywhere.

    What is inside the mask has no part in it: there, both are taken to be `before`.
    """
    similar = ssim(before, torch.where(mask.unsqueeze(-1), before, after)).mean(-1)
    outside = ~mask
    count = outside.sum((-2, -1))
    return torch.where(count > 0, (similar * outside).sum((-2, -1)) / count.clamp(min=1), 1.0)


def show_difference(before: Tensor, after: Tensor) -> Tensor:
    """How far two pictures ``[B, H, W, C]`` in 0..1 are apart, `AMPLIFIED`; black where they are equal."""
    return (AMPLIFIED * (after.float() - before.float()).abs()).clamp(max=1)


def show_masks(mask: Tensor, other: Tensor) -> Tensor:
    """Two masks ``[B, H, W]`` bool as a picture ``[B, H, W, 3]``: the first orange, the other blue, white in both."""
    colours = torch.tensor([ORANGE, BLUE], device=mask.device)
    return mask.unsqueeze(-1) * colours[0] + other.unsqueeze(-1) * colours[1]


def outlined(picture: Tensor, mask: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """The picture ``[B, H, W, 3]`` with the outline of `mask` ``[B, H, W]`` bool, just outside it.

    The line is as wide as 1/256 of the picture's shorter side, one pixel at least.
    """
    width = max(1, min(picture.shape[1:3]) // 256)
    grown = max_pool2d(mask.float(), 2 * width + 1, 1, width) > 0
    return torch.where((grown & ~mask).unsqueeze(-1), torch.tensor(colour).to(picture), picture)
