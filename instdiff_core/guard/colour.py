"""How an editor recoloured a picture: one function of its colours, and what is left as soft spots of light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..maps import blur_gaussian
from .align import OUTLYING, tukey

SMALL = 160
"""Pixels of the longer side at which colours are fitted: edges and grain average out there."""

LEASH = 0.05
"""How far the quadratic map may be from the linear one: a free one would swallow recoloured things."""

RIDGE = 3e-3
"""How strongly the quadratic map is drawn towards the linear one, as a part of the pixels."""

STIFF = 1e-3
"""The variance from which a colour has a gain of its own, and all have one: fitted to less, it spoils other colours."""

SOFT = 12
"""The soft rest is smooth over this part of the longer side."""

ROUNDS = 8

AT_ONCE = 2**16
"""Pixels that are mapped at a time, so that a processor's cache holds their terms."""


@dataclass(frozen=True, eq=False)
class ColourMatch:
    """Takes an edit's colours to the original's.

    `gain` and `offset` ``[3]`` for red, green and blue; `bend` ``[10, 3]`` of the quadratic terms, added
    as far as `LEASH`; `rest` ``[3, h, w]``, added where the edit lies over the original.
    """

    gain: Tensor
    offset: Tensor
    bend: Tensor
    rest: Tensor

    @classmethod
    def none(cls) -> ColourMatch:
        """Leaves colours as they are."""
        return cls(torch.ones(3), torch.zeros(3), torch.zeros(10, 3), torch.zeros(3, 1, 1))

    def map(self, colours: Tensor) -> Tensor:
        """Colours ``[..., 3]`` as they are after the map, without the `rest`."""
        gain, offset, bend = (each.to(colours) for each in (self.gain, self.offset, self.bend))
        parts = []
        for part in torch.split(colours.reshape(-1, 3), AT_ONCE):
            linear = part * gain + offset
            parts.append(linear + (_terms(part) @ bend).clamp(-LEASH, LEASH) if self.bend.any() else linear)
        return torch.cat(parts).view(colours.shape)

    def apply(self, aligned: Tensor) -> Tensor:
        """An aligned edit ``[h, w, 3]`` in the original's colours, 0..1."""
        rest = functional.interpolate(self.rest[None], aligned.shape[:2], mode="bilinear")[0]
        return (self.map(aligned) + rest.movedim(0, -1)).clamp(0, 1)


def match_colours(original: Tensor, aligned: Tensor, unchanged: Tensor) -> ColourMatch:
    """Fit the colours of an aligned edit to the original's, both ``[h, w, 3]``, where `unchanged` ``[h, w]`` bool.

    A gain and an offset for each colour, without what does not follow (Tukey's weights); a quadratic map
    of all three, held near the former; and what is then left, blurred over the pixels that were kept.
    """
    scale = min(1.0, SMALL / max(original.shape[:2]))
    size = [max(1, round(side * scale)) for side in original.shape[:2]]
    target, colours, share = (
        functional.interpolate(values.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
        for values in (original, aligned, unchanged[..., None].float())
    )
    usable = share[..., 0] > 0.9
    if usable.sum() < 50:
        return ColourMatch.none()
    pixels, wanted = colours[usable], target[usable]
    gain, offset, weight = _fit_linear(pixels, wanted)
    bend = torch.zeros(10, 3)
    for _ in range(ROUNDS // 2):
        bend = _fit_bend(pixels, wanted - (pixels * gain + offset), weight)
        left = wanted - ColourMatch(gain, offset, bend, torch.zeros(3, 1, 1)).map(pixels)
        weight = _weigh(left.norm(dim=-1))
    rest = torch.zeros(*size, 4)
    rest[..., :3][usable], rest[..., 3][usable] = left * weight[:, None], weight
    sums = blur_gaussian(rest.movedim(-1, 0), max(size) / SOFT)
    return ColourMatch(gain, offset, bend, sums[:3] / (sums[3] + 0.02))


def _fit_linear(colours: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gain and offset ``[3]`` of each colour ``[n, 3]``, and the weights ``[n]`` that the pixels had."""
    # begun with an offset alone: a gain could take the colours of two things, one of them edited, for one line
    change = wanted - colours
    weight = _weigh((change - change.median(0).values).norm(dim=-1))
    for _ in range(ROUNDS):
        total = weight.sum().clamp(min=1e-6)
        means = [(values * weight[:, None]).sum(0) / total for values in (colours, wanted)]
        centred = [values - mean for values, mean in zip((colours, wanted), means, strict=True)]
        products = [(centred[0] * each * weight[:, None]).sum(0) / total for each in centred]
        common = (products[1].sum() + STIFF) / (products[0].sum() + STIFF)
        gain = (products[1] + STIFF * common) / (products[0] + STIFF)
        offset = means[1] - gain * means[0]
        weight = _weigh((wanted - colours * gain - offset).norm(dim=-1))
    return gain, offset, weight


def _fit_bend(colours: Tensor, left: Tensor, weight: Tensor) -> Tensor:
    terms = _terms(colours)
    weighted = terms * weight[:, None]
    normal = weighted.T @ terms + RIDGE * weight.sum() * torch.eye(terms.shape[1])
    return torch.linalg.solve(normal, weighted.T @ left)


def _terms(colours: Tensor) -> Tensor:
    """The ten quadratic terms of colours ``[..., 3]``."""
    red, green, blue = (2 * colours - 1).unbind(-1)
    squares = [red * red, green * green, blue * blue, red * green, red * blue, green * blue]
    return torch.stack([torch.ones_like(red), red, green, blue, *squares], -1)


def _weigh(errors: Tensor) -> Tensor:
    """Weights 1 to 0 of errors: 0 for outlying ones."""
    return tukey(errors, (OUTLYING * errors.median()).clamp(min=0.01))
