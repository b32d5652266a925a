"""The part of a picture that is worked on, at a size of its own: cut out, and put back.

A model works at the size that it was made for, and a photo is larger: an edit of a small thing is done
on a crop around it, enlarged or shrunk to that size, and the photo gets back only what changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .blend import paste
from .components import EIGHT
from .grain import add_grain

CONTEXT = 2.0
"""How many times as long as what is worked on a region is."""

WHOLE = 0.6
"""A region that fills more than this part of the picture gains nothing: the whole picture is taken."""

LARGEST_SCALE = 4.0
"""How much a region is enlarged at most: beyond it there is nothing in it that a model could see."""

WORTH = 5 / 3
"""What is enlarged by less, in length, is painted in the whole picture: docs/method.md, 11, the finish."""

SEPARATE = 0.25
"""Parts of a mask that are smaller than this part of its largest one get no region of their own."""


@dataclass(frozen=True)
class Region:
    """A rectangle of one picture of a batch, in its pixels, and the working size ``(height, width)``."""

    picture: int
    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    def cut(self, images: Tensor) -> Tensor:
        """The rectangle of pictures ``[B, H, W, C]`` at the working size, ``[1, h, w, C]``, in the same range.

        Of bytes in 0..1.
        """
        part = _in_unit(self._part(images))
        return _resize(part, self.size, "bicubic").clamp(part.amin(), part.amax())

    def cut_mask(self, masks: Tensor) -> Tensor:
        """The rectangle of masks ``[B, H, W]`` in 0..1 at the working size, ``[1, h, w]`` float32."""
        return _resize(self._part(masks)[..., None].float(), self.size, "bilinear")[..., 0]

    def put_back(self, images: Tensor, edited: Tensor, alpha: Tensor, grain: bool = False) -> Tensor:
        """Put an edited crop into its picture, which is changed in place, and say where, ``[1, height, width]`` bool.

        `images` ``[B, H, W, C]`` in 0..1, or bytes, which then nowhere take the place of all of a large photo in
        floats; `edited` ``[1, h, w, 3 or more]`` and `alpha` ``[1, h, w]`` in 0..1, how
        much of it is put back, of any size. With `grain` it gets that of the picture at the picture's own size
        (`grain.add_grain`). Elsewhere the picture stays as it was, bit for bit.
        """
        part, size = self._part(images), (self.height, self.width)
        before = _in_unit(part)
        colours = min(images.shape[-1], edited.shape[-1])
        resized = _resize(edited[..., :colours].to(before), size, "bicubic").clamp(0, 1)
        # not antialiased: that would thin the edit out along the inside of its mask, where the crop was enlarged
        alpha = functional.interpolate(alpha.to(before)[:, None], size, mode="bilinear")[:, 0]
        if grain:
            resized = add_grain(before, resized, alpha)
        pasted = paste(before, resized, alpha)
        part.copy_(pasted if images.is_floating_point() else pasted.mul_(255).round_())
        return alpha > 0

    def cuts_off(self, masks: Tensor) -> bool:
        """Whether masks ``[B, H, W]`` bool reach a side of the rectangle that is none of the picture's."""
        part, (height, width) = self._part(masks), masks.shape[1:]
        sides = (
            (self.top > 0, part[:, 0]),
            (self.left > 0, part[:, :, 0]),
            (self.top + self.height < height, part[:, -1]),
            (self.left + self.width < width, part[:, :, -1]),
        )
        return any(inside and bool(side.any()) for inside, side in sides)

    def leaves_out(self, masks: Tensor) -> bool:
        """Whether masks ``[B, H, W]`` bool of the region's picture reach beyond the rectangle."""
        return bool(masks[self.picture].sum() > self._part(masks).sum())

    def of_another(self, further: int) -> Region:
        """The same rectangle of a picture that is `further` on in the batch."""
        return replace(self, picture=self.picture + further)

    def mark(self, masks: Tensor, mask: Tensor) -> None:
        """Add a mask ``[1, h, w]`` of the rectangle to that of its picture, of masks ``[B, H, W]``, in place."""
        part = self._part(masks)
        resized = _resize(mask.to(masks)[..., None], (self.height, self.width), "bilinear")[..., 0]
        part.copy_(torch.maximum(part, resized))

    def _part(self, images: Tensor) -> Tensor:
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        return images[self.picture : self.picture + 1, rows, columns]


def find_regions(
    masks: Tensor, pixels: int, *, context: float = CONTEXT, unit: int = 64, separate: bool = False
) -> list[Region]:
    """The regions in which the areas of masks ``[B, H, W]`` bool are worked on, all of one shape and working size.

    The region of a mask is a square around its bounding box, `context` (1 and above) times as long as
    the box's longer side, moved into the picture where it sticks out, and a rectangle of the same area
    where the picture is too narrow for it. It is worked on at about `pixels` pixels, with sides that
    are multiples of `unit`. With `separate` each connected part of a mask has a region of its own, but
    for small parts and for those whose regions overlap. An empty mask, and one whose region would be
    most of the picture, has the whole picture.

    Raises ``ValueError`` for a `context` below 1.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, not {context}")
    limits = masks.shape[1], masks.shape[2]
    boxes = [(picture, box) for picture, mask in enumerate(masks) for box in _boxes(mask, separate)]
    while True:
        frames = _frames(boxes, context, limits)
        joined = _joined(boxes, frames, limits)
        if joined == boxes:
            break
        boxes = joined
    largest = max(frames, key=lambda frame: frame[2] * frame[3])
    size = working_size(largest[2], largest[3], pixels, unit)
    return [Region(picture, *frame, size) for (picture, _), frame in zip(boxes, frames, strict=True)]


def find_enlargement(mask: Tensor, area: Tensor, pixels: int, *, unit: int = 64) -> Region | None:
    """The region in which what a mask ``[H, W]`` bool covers is painted larger than it is, within `area` around it.

    As `find_regions` finds it, with more around a very small mask, so that it reaches `pixels` without being
    enlarged beyond its limit. None where nothing is to be painted, where it would be enlarged by less than `WORTH`,
    and where the area reaches beyond it.
    """
    if not mask.any() or not area.any():
        return None
    ((_, _, height, width),) = _boxes(mask, separate=False)
    least = math.sqrt(pixels) / LARGEST_SCALE / max(height, width)
    (region,) = find_regions(mask[None], pixels, context=max(CONTEXT, least), unit=unit)
    enlarged = math.sqrt(math.prod(region.size) / (region.height * region.width))
    whole = (region.height, region.width) == tuple(area.shape)
    return None if whole or enlarged < WORTH or region.leaves_out(area[None]) else region


def working_size(height: int, width: int, pixels: int, unit: int) -> tuple[int, int]:
    """The shape of a rectangle at about `pixels` pixels, by multiples of `unit`.

    It is enlarged `LARGEST_SCALE` times at most.
    """
    scale = min(math.sqrt(pixels / (height * width)), LARGEST_SCALE)
    down, across = (max(1, round(side * scale / unit)) * unit for side in (height, width))
    return down, across


Box = tuple[int, int, int, int]
"""Top, left, height, width."""


def _boxes(mask: Tensor, separate: bool) -> list[Box]:
    """The bounding box of a mask ``[H, W]``, or of each part that is not small; all of it, where it is empty."""
    area = mask.cpu().numpy()
    if not area.any():
        return [(0, 0, *area.shape)]
    labels, count = ndimage.label(area, EIGHT) if separate else (area.astype(np.int32), 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [
        (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        for (rows, columns), size in zip(ndimage.find_objects(labels), sizes, strict=True)
        if size >= SEPARATE * sizes.max()
    ]


def _frames(boxes: Sequence[tuple[int, Box]], context: float, limits: tuple[int, int]) -> list[Box]:
    """Rectangles of one shape around the boxes, inside the picture."""
    sides = [_sides(box, context, limits) for _, box in boxes]
    tallest, widest = max(down for down, _ in sides), max(across for _, across in sides)
    frames = []
    for (down, across), (_, box) in zip(sides, boxes, strict=True):
        scale = max(down / tallest, across / widest)
        down, across = math.ceil(tallest * scale), math.ceil(widest * scale)
        top, left = _place(box[0], box[2], down, limits[0]), _place(box[1], box[3], across, limits[1])
        frames.append((top, left, down, across))
    return frames


def _sides(box: Box, context: float, limits: tuple[int, int]) -> tuple[int, int]:
    """The sides of a square around a box, or of a rectangle of its area where the picture is too narrow for it."""
    height, width = limits
    if box[2:] == limits:
        return limits
    side = math.ceil(max(box[2], box[3]) * context)
    down, across = min(side, height), min(side, width)
    return min(max(down, side * side // across), height), min(max(across, side * side // down), width)


def _place(start: int, length: int, side: int, limit: int) -> int:
    """Where a side begins that has a part of some length in its middle, moved into 0..limit."""
    return min(max(start + (length - side) // 2, 0), limit - side)


def _joined(boxes: Sequence[tuple[int, Box]], frames: Sequence[Box], limits: tuple[int, int]) -> list[tuple[int, Box]]:
    """The boxes, with those of a picture as one whose frames overlap, or as the whole picture that they nearly fill."""
    joined: list[tuple[int, Box, Box]] = []
    for (picture, box), frame in zip(boxes, frames, strict=True):
        for other in [other for other in joined if other[0] == picture and _overlap(frame, other[2])]:
            joined.remove(other)
            box, frame = _union(box, other[1]), _union(frame, other[2])
        joined.append((picture, box, frame))
    filled = [0] * (boxes[-1][0] + 1)
    for picture, _, frame in joined:
        filled[picture] += frame[2] * frame[3]
    whole = {picture for picture, area in enumerate(filled) if area > WHOLE * limits[0] * limits[1]}
    kept = [(picture, (0, 0, *limits) if picture in whole else box) for picture, box, _ in joined]
    return list(dict.fromkeys(kept))


def _overlap(first: Box, second: Box) -> bool:
    return all(
        first[axis] < second[axis] + second[axis + 2] and second[axis] < first[axis] + first[axis + 2]
        for axis in (0, 1)
    )


def _union(first: Box, second: Box) -> Box:
    top, left = (min(first[axis], second[axis]) for axis in (0, 1))
    bottom, right = (max(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) for axis in (0, 1))
    return top, left, bottom - top, right - left


def _in_unit(pictures: Tensor) -> Tensor:
    """Pictures in 0..1, also those of bytes."""
    return pictures if pictures.is_floating_point() else pictures.float().div_(255)


def _resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Pictures ``[B, H, W, C]`` at another size, antialiased; as they are where they have it."""
    if tuple(images.shape[1:3]) == size:
        return images
    # in float32: on a CPU torch has no antialiasing in float16
    values = images.movedim(-1, 1).float()
    resized = functional.interpolate(values, size, mode=mode, antialias=True, align_corners=False)
    return resized.movedim(1, -1).to(images)
