"""How right a mask is, and how alike two pictures are.

Masks ``[..., H, W]`` bool and pictures ``[..., H, W, C]``; figures have the shape of what is before.
"""

from __future__ import annotations

import math

import kornia.metrics
import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11
"""Pixels across the Gaussian window (sigma 1.5) of Wang et al. 2004."""


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of two masks, 0 to 1; 1 when both are empty."""
    intersection, union = ((area).sum((-2, -1)) for area in (mask & truth, mask | truth))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def precision_recall(mask: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the mask is right, and how much of the truth it covers, 0 to 1; 0 for an empty one."""
    common, area, true_area = (part.sum((-2, -1)) for part in (mask & truth, mask, truth))
    return common / area.clamp(min=1), common / true_area.clamp(min=1)


def boundary_f(mask: Tensor, truth: Tensor, tolerance: float = 0.0075) -> Tensor:
    """How well the boundaries of two masks agree: the F-measure of DAVIS (Perazzi et al. 2016), 0 to 1.

    A boundary pixel is right when the other mask's boundary is within `tolerance`, a fraction of
    the picture's diagonal, rounded up to pixels. The picture's border is no boundary. 1 when
    neither mask has a boundary, 0 when only one has.
    """
    radius = math.ceil(tolerance * math.hypot(*mask.shape[-2:]))
    boundary, true_boundary = _boundary(mask), _boundary(truth)
    precision, _ = precision_recall(boundary, _dilate(true_boundary, radius))
    recall, _ = precision_recall(true_boundary, _dilate(boundary, radius))
    neither = ~boundary.flatten(-2).any(-1) & ~true_boundary.flatten(-2).any(-1)
    f_measure = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(neither, 1.0, f_measure)


def psnr_outside(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of two uint8 pictures where `mask` is false; ``inf`` when equal there, or when it is true everywhere.

    In float64.
    """
    squares = (before.double() - after.double()).square().mean(-1) * ~mask
    error = squares.sum((-2, -1)) / (~mask).sum((-2, -1)).clamp(min=1)
    return 10 * (255**2 / error).log10()


def ssim(before: Tensor, after: Tensor) -> Tensor:
    """The structural similarity of two pictures ``[B, H, W, C]`` in 0..1, as a map of their shape, float32.

    From -1 to 1: 1 where they are equal, 0 where they have nothing in common, below 0 where one is
    bright as the other gets dark (Wang et al. 2004). Beyond the border the pictures go on as they end.
    """
    margin = (WINDOW // 2,) * 4
    first, second = (
        functional.pad(picture.movedim(-1, 1).float(), margin, mode="replicate") for picture in (before, after)
    )
    return kornia.metrics.ssim(first, second, WINDOW, padding="valid").movedim(1, -1)


def ssim_outside(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """The mean of `ssim` where `mask` ``[B, H, W]`` is false, ``[B]`` in -1..1; 1 where it is true everywhere.

    What is inside the mask has no part in it: there, both are taken to be `before`.
    """
    similarity = ssim(before, torch.where(mask.unsqueeze(-1), before, after)).mean(-1)
    outside = ~mask
    count = outside.sum((-2, -1))
    return torch.where(count > 0, (similarity * outside).sum((-2, -1)) / count.clamp(min=1), 1.0)


def _boundary(mask: Tensor) -> Tensor:
    """The pixels that differ from the one to the right, below, or both."""
    padded = torch.cat([mask, mask[..., -1:]], -1)
    padded = torch.cat([padded, padded[..., -1:, :]], -2)
    return (mask != padded[..., :-1, 1:]) | (mask != padded[..., 1:, :-1]) | (mask != padded[..., 1:, 1:])


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Every pixel within a disk of `radius` pixels around one of the mask."""
    across = torch.arange(-radius, radius + 1, device=mask.device)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).float()
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return (functional.conv2d(flat, disk[None, None], padding=radius) > 0.5).view(mask.shape)
