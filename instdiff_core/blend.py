"""Keep the original outside the mask: while sampling, and in the finished picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .maps import blur_gaussian

RING = 16
"""Width in pixels of the ring around a painted area in which its colours are compared with the picture's."""

SPREAD = 8.0
"""The Gaussian's sigma, in pixels, by which the difference in the ring is carried into the area."""

FADE = 0.1
"""The share of the ring under the Gaussian below which the difference fades."""


def keep_original(mask: Tensor, edited: Tensor, original: Tensor) -> Tensor:
    """`edited` inside the mask, `original` outside it (docs/method.md, 7).

    `edited` and `original` ``[B, C, H, W]`` must be at the same noise level: both clean, or
    `original` noised by the host's or the scheduler's own scaling to exactly the level of
    `edited`. `mask` ``[B, H, W]`` bool. Values are chosen, not mixed, so that either side
    comes out bit for bit.
    """
    return torch.where(mask.unsqueeze(1), edited, original)


def keep_edits(masks: Sequence[Tensor], edited: Sequence[Tensor], original: Tensor) -> Tensor:
    """`keep_original` for several edits, each inside its own mask; the masks do not overlap (docs/method.md, 7.1)."""
    for mask, of_edit in zip(masks, edited, strict=True):
        original = keep_original(mask, of_edit, original)
    return original


def feather_mask(mask: Tensor, grow: int, feather: int) -> tuple[Tensor, Tensor]:
    """The area to paint and how to paste it: grown by `grow` pixels, with a soft edge in what was added.

    `mask` ``[B, H, W]`` float in 0..1, cut at one half. Returns the grown mask ``[B, H, W]`` bool
    and its alpha ``[B, H, W]`` float32: 0 outside it, 1 in the mask itself, and in between falling
    with the distance from the mask over the last `feather` pixels, of which there are `grow` at most.
    Distances are the larger of those across and down.
    """
    feather = min(feather, grow)
    area = (mask > 0.5).float()
    alpha = torch.zeros_like(area)
    for distance in range(grow + 1):
        if distance:
            area = functional.max_pool2d(area, 3, 1, 1)
        if distance >= grow - feather:
            alpha += area
    return area > 0, alpha / (feather + 1)


def feather_edits(masks: Tensor, grow: int, feather: int) -> list[tuple[Tensor, Tensor]]:
    """`feather_mask` for each of several edits, whose masks are ``[edits, B, H, W]`` float in 0..1.

    What is grown ends where another edit is: its area is false and its alpha 0 there.
    """
    parts = []
    for number, mask in enumerate(masks):
        area, alpha = feather_mask(mask, grow, feather)
        free = ~(torch.cat([masks[:number], masks[number + 1 :]]) > 0.5).any(0)
        parts.append((area & free, alpha * free))
    return parts


def paste(image: Tensor, painted: Tensor, alpha: Tensor) -> Tensor:
    """`painted` over `image`, both ``[B, H, W, C]``; where `alpha` ``[B, H, W]`` is 0, `image` bit for bit.

    Channels beyond those of `painted` (an alpha channel) are kept from `image`.
    """
    weight = alpha.unsqueeze(-1).to(image.dtype)
    colours = painted.shape[-1]
    under = image[..., :colours]
    mixed = torch.where(weight > 0, under * (1 - weight) + painted * weight, under)
    return torch.cat([mixed, image[..., colours:]], -1)


def match_colours(image: Tensor, painted: Tensor, alpha: Tensor) -> Tensor:
    """`painted` without its step in colour at the edge of the area that `paste` takes from it.

    `image` ``[B, H, W, C]`` and `painted` ``[B, H, W, 3]`` in one range, `alpha` ``[B, H, W]`` as in `paste`. In a ring
    around the area `painted` should be the picture: what it is off there, but for fine detail, is carried into the
    area, where it fades within a few pixels. Nothing changes where the ring holds the picture itself.
    """
    colours = painted.shape[-1]
    under = image[..., :colours].to(painted)
    area = (alpha > 0).to(painted)
    ring = (functional.max_pool2d(area, 2 * RING + 1, 1, RING) - area).unsqueeze(-1)
    sums = torch.cat([(under - painted) * ring, ring], -1).movedim(-1, 1)
    blurred = blur_gaussian(sums.float().flatten(0, 1), SPREAD).view(sums.shape).movedim(1, -1)
    shift = blurred[..., :colours] / blurred[..., colours:].clamp(min=FADE)
    lowest, highest = torch.minimum(under.amin(), painted.amin()), torch.maximum(under.amax(), painted.amax())
    return (painted + shift.to(painted)).clamp(lowest, highest)
