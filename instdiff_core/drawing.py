"""Masks and differences as pictures to look at, and the mask's outline in the latents that previews show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate, max_pool2d

AMPLIFIED = 4
"""How many times brighter than it is a difference is shown."""

SHOWN = 1024
"""Pixels of the longer side, at most, of pictures that are only looked at."""

ORANGE, BLUE = (1.0, 0.6, 0.0), (0.0, 0.4, 1.0)
"""The colours of the first mask and the other. Colour-blind people tell them apart too, and they add up to white."""


PERIOD = 4
"""Pixels from one dash of an outline to the next of its colour."""


def show_difference(before: Tensor, after: Tensor) -> Tensor:
    """How far two pictures ``[B, H, W, C]`` in 0..1 are apart, `AMPLIFIED`; black where they are equal."""
    return (AMPLIFIED * (after.float() - before.float()).abs()).clamp(max=1)


def show_masks(mask: Tensor, other: Tensor) -> Tensor:
    """Two masks ``[B, H, W]`` bool as a picture ``[B, H, W, 3]``: the first orange, the other blue, white in both."""
    colours = torch.tensor([ORANGE, BLUE], device=mask.device)
    return mask.unsqueeze(-1) * colours[0] + other.unsqueeze(-1) * colours[1]


def draw_outline(picture: Tensor, mask: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """The picture ``[B, H, W, 3]`` with the outline of `mask` ``[B, H, W]`` bool, just outside it.

    The line is as wide as 1/256 of the picture's shorter side, one pixel at least.
    """
    width = max(1, min(picture.shape[1:3]) // 256)
    dilated = max_pool2d(mask.float(), 2 * width + 1, 1, width) > 0
    return torch.where((dilated & ~mask).unsqueeze(-1), torch.tensor(colour).to(picture), picture)


def show_area(picture: Tensor, area: Tensor) -> Tensor:
    """A picture ``[H, W, C]``, of at most `SHOWN` pixels a side, with the outline of `area` ``[H, W]`` bool.

    Gives colours ``[h, w, 3]``; of one channel, or three and more, those from the fourth on are left out.
    """
    height, width = area.shape
    scale = max(1.0, max(height, width) / SHOWN)
    size = [max(1, round(side / scale)) for side in (height, width)]
    colours = picture[..., :3].movedim(-1, 0)[None].float()
    small = interpolate(colours, size, mode="bilinear", antialias=True).movedim(1, -1).clamp(0, 1)
    covered = adaptive_max_pool2d(area[None, None].float(), size)[0] > 0  # thin parts stay
    return draw_outline(small.expand(-1, -1, -1, 3), covered, ORANGE)[0]


def find_white_and_black(factors: Sequence[Sequence[float]], bias: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """The smallest latents ``[C]`` that are shown as white and as black, on the CPU.

    By the linear preview of a kind of latents: its `factors` ``[C, 3]`` and `bias` ``[3]`` take a
    latent pixel to a colour in -1..1.
    """
    inverse = torch.linalg.pinv(torch.tensor(factors))
    offset = torch.tensor(bias) if bias else torch.zeros(3)
    return (1 - offset) @ inverse, (-1 - offset) @ inverse


class MarchingAnts:
    """Outlines of masks in latents, whose dashes are `light` and `dark` ``[C]`` by turns and move with every step.

    So they are seen on any picture. An outline is the mask's own outermost pixels; the border of the picture
    is no edge.
    """

    def __init__(self, light: Tensor, dark: Tensor) -> None:
        self._light, self._dark = light, dark
        self._dashes = light.new_zeros(len(light), 0, 0)

    def draw(self, latents: Tensor, mask: Tensor, step: int) -> Tensor:
        """The latents ``[B, C, H, W]`` with the outline of `mask` ``[B, H, W]`` bool, as a new tensor."""
        height, width = mask.shape[-2:]
        if self._dashes.shape[1:] != (height + PERIOD, width):
            self._dashes = self._make_dashes(height + PERIOD, width)
        inside = mask.unsqueeze(1) * -1.0
        dashes = self._dashes[:, step % PERIOD :][:, :height]
        return torch.where(max_pool2d(inside, 3, 1, 1) > inside, dashes.to(latents), latents)

    def _make_dashes(self, height: int, width: int) -> Tensor:
        """``[C, height, width]``; from one row on it is the pattern of a later step."""
        down, across = (torch.arange(length, device=self._light.device) for length in (height, width))
        # one place down is one on in the pattern and one across is two, so that diagonals have dashes too
        is_light = (down[:, None] + 2 * across) % PERIOD < PERIOD // 2
        return torch.where(is_light, self._light[:, None, None], self._dark[:, None, None])
