"""Put only the edit back: an original, and what any editor made of it.

Editors that paint a picture anew shift, zoom, recolour and soften all of it while they edit a part. Here the
edit is laid over the original (`align`), its colours are taken back (`colour`), what was really changed is
found (`find`), and that alone is put into the original, which elsewhere stays as it is, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..blend import feather_mask, paste
from ..options import GUARD, GuardOptions
from .align import Alignment, align
from .colour import ColourMatch, match_colours
from .find import find_edit, measure_change
from .report import GuardReport
from .warp import find_warp

LONGEST = 1024
"""Pixels of the longer side at which pictures are compared; only the paste is at full size."""

SHORTEST = 32
"""Pictures with a shorter side have too little in them to be laid over one another."""

AGREEMENT = 0.4
"""Two pictures of which less agrees (`Alignment.agreement`) are not taken for the same."""

COLOUR_CHANGE = 17.0
"""A median change of colours (CIELAB) beyond this is no editor's drift but another light."""

RESIDUAL = 6.5
"""Where after all a tenth of the rest differs by more (CIELAB), everything was painted anew."""

MOST = 0.65
"""Of a picture of which more was changed, nothing worth keeping is left."""

ROUNDS = 2
"""How often colours are fitted, on a small copy, to what the last round found unchanged."""

GREY = torch.tensor([0.299, 0.587, 0.114])
"""The weights of red, green and blue in brightness (ITU-R BT.601)."""

CHUNK = 2**17
"""Pixels that are moved at a time."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """The `picture` ``[H, W, C]`` with the edit in it, the `area` ``[H, W]`` bool outside which it is the original.

    `aligned` ``[H, W, 3]`` is all of the edit, laid over the original, in its colours, by a `homography` ``[3, 3]``
    (`Alignment`).
    """

    picture: Tensor
    area: Tensor
    aligned: Tensor
    homography: Tensor
    report: GuardReport


def guard_edit(original: Tensor, edited: Tensor, mask: Tensor | None = None, options: GuardOptions = GUARD) -> Guarded:
    """Put what an editor changed into the original, and nothing else.

    `original` ``[H, W, C]`` and `edited` ``[h, w, c]`` in 0..1, of any sizes, with one channel, or three and more;
    those from the fourth on (transparency) are the original's. `mask` ``[H, W]`` in 0..1 says what was
    edited where it is above one half, of any size; without it that is found. What cannot be told with
    certainty is refused, and the report says why; `options.refused` says what comes out then.

    Raises ``ValueError`` for NaN and infinite values.
    """
    for name, picture in (("original", original), ("edited", edited)):
        if not all(torch.isfinite(value) for value in picture.aminmax()):
            raise ValueError(f"{name} holds NaN or infinite values")
    before, after = _colours(original), _colours(edited)
    size = original.shape[0], original.shape[1]
    small, small_edit = _shrink(before.cpu(), LONGEST), _shrink(after.cpu(), min(LONGEST, max(size)))
    given = None if mask is None else _resize(mask.cpu().float()[..., None], small.shape[:2])[..., 0] > 0.5

    plan = _plan(small, small_edit, given, options)
    refusal = plan.refusal
    whole = torch.full(small.shape[:2], refusal is not None and options.refused != "original")
    grow, feather = (round(part / 100 * max(small.shape)) for part in (options.grow, options.feather))
    alpha = whole.float() if refusal else feather_mask(plan.found[None].float(), grow, feather)[1][0]
    alpha = _resize(alpha[..., None], size)[..., 0].to(original.device)

    aligned = _move(before, after, plan.alignment, plan.colours)
    painted = aligned
    if refusal and options.refused == "edit":
        painted = _resize(after.to(before), size).clamp(0, 1)
    if original.shape[-1] < 3:
        painted = painted.mean(-1, keepdim=True)
    area = alpha > 0
    picture, part = original.clone(), _extent(area)
    picture[part] = paste(original[part], painted[part][..., : original.shape[-1]].to(original), alpha[part])
    report = _report(plan, size, area, after.shape, options)
    return Guarded(picture, area, aligned, plan.alignment.homography, report)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What was found out at working size: how to lay the edit over, what of it to take, or why not."""

    alignment: Alignment
    colours: ColourMatch
    found: Tensor
    colour_change: float = 0.0
    residual: float = 0.0
    refusal: str | None = None


def _plan(original: Tensor, edited: Tensor, given: Tensor | None, options: GuardOptions) -> _Plan:
    """Find out about pictures ``[h, w, 3]`` at working size."""
    everything = torch.ones(original.shape[:2], dtype=torch.bool)
    nothing = ~everything
    stretched = Alignment(torch.eye(3, dtype=torch.float64), math.nan)
    if min(*original.shape[:2], *edited.shape[:2]) < SHORTEST:
        return _Plan(stretched, ColourMatch.none(), nothing, refusal=f"a picture has a side of under {SHORTEST} pixels")
    kept = everything if given is None else ~_dilate(given, 4)
    alignment = align(original @ GREY, edited @ GREY, kept)
    if math.isnan(alignment.agreement):
        where = "" if given is None else " outside the mask"
        reason = f"there is too little detail{where} to lay the pictures over one another"
        return _Plan(stretched, ColourMatch.none(), nothing, refusal=reason)
    if alignment.agreement < AGREEMENT:
        reason = (
            f"the pictures do not show the same (only {alignment.agreement:.0%} of the detail agrees): "
            "another picture, another style, or everything moved"
        )
        return _Plan(Alignment(stretched.homography, alignment.agreement), ColourMatch.none(), nothing, refusal=reason)

    # to compare alone: what is put back was painted for the places that the homography says
    bent = replace(alignment, warp=find_warp(original @ GREY, edited @ GREY, kept, alignment))
    aligned, usable = _lay_over(edited, bent, original.shape)
    colours, unchanged = _match(original, aligned, usable & kept, given, options)
    matched = colours.apply(aligned)
    found = find_edit(original, matched, usable, unchanged, options.sensitivity) if given is None else given
    unchanged = usable & kept & ~found
    change = measure_change(aligned, matched, unchanged, 0.5) if options.match_colour else 0.0
    residual = measure_change(original, matched, unchanged, 0.9)
    refusal = None
    if change > COLOUR_CHANGE:
        refusal = "colours and light changed everywhere: that seems to be the edit"
    elif residual > RESIDUAL:
        refusal = "nearly everything changed a little, so that nothing stands out"
    elif given is None and found.float().mean() > MOST:
        refusal = f"most of the picture changed ({float(found.float().mean()):.0%})"
    return _Plan(alignment, ColourMatch.none() if refusal else colours, found, change, residual, refusal)


def _match(
    original: Tensor, aligned: Tensor, comparable: Tensor, given: Tensor | None, options: GuardOptions
) -> tuple[ColourMatch, Tensor]:
    """The match of colours, and what seems unchanged ``[h, w]`` bool, by rounds of both on half-size copies."""
    size = [max(1, side // 2) for side in original.shape[:2]]
    first, second = (_resize(picture, size) for picture in (original, aligned))
    usable = _resize(comparable[..., None].float(), size)[..., 0] > 0.99
    unchanged = usable

    def match() -> ColourMatch:
        return match_colours(first, second, unchanged) if options.match_colour else ColourMatch.none()

    for _ in range(ROUNDS if given is None else 0):
        found = find_edit(first, match().apply(second), usable, unchanged, options.sensitivity)
        if found.sum() > MOST * usable.sum():
            break
        unchanged = usable & ~_dilate(found, 4)
    whole = _resize(unchanged[..., None].float(), original.shape[:2])[..., 0] > 0.99
    return match(), comparable & whole


def _lay_over(edited: Tensor, alignment: Alignment, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The edit at the original's working size, and where it has something, ``[h, w]`` bool."""
    grid = alignment.grid(slice(None), (shape[0], shape[1]))
    moved = functional.grid_sample(edited.movedim(-1, 0)[None], grid, "bicubic", "border", align_corners=False)
    return moved[0].movedim(0, -1).clamp(0, 1), (grid[0].abs() <= 1).all(-1)


def _move(original: Tensor, edited: Tensor, alignment: Alignment, colours: ColourMatch) -> Tensor:
    """All of the edit over the original, in its colours, ``[H, W, 3]``; beyond the edit, the original."""
    height, width = original.shape[:2]
    edited = _shrink(edited, round(1.25 * max(height, width)))
    source = colours.map(edited).movedim(-1, 0)[None]
    rest = colours.rest.to(edited.device)
    result = torch.empty_like(original)
    for rows in _chunks(height, max(1, CHUNK // width)):
        grid = alignment.grid(rows, (height, width)).to(edited.device)
        moved = functional.grid_sample(source, grid, "bicubic", "border", align_corners=False)
        places = Alignment(torch.eye(3), 1).grid(rows, (height, width)).to(edited.device)
        moved = moved + functional.grid_sample(rest[None], places, "bilinear", "border", align_corners=False)
        inside = (grid[0].abs() <= 1).all(-1, keepdim=True)
        moved = moved[0].movedim(0, -1).clamp(0, 1)
        result[rows] = torch.where(inside.to(result.device), moved.to(result), original[rows])
    return result


def _report(
    plan: _Plan, size: tuple[int, int], area: Tensor, edited: tuple[int, ...], options: GuardOptions
) -> GuardReport:
    across, down, zoom, rotation = plan.alignment.movement(size)
    return GuardReport(
        shift=(across, down),
        zoom=zoom,
        rotation=rotation,
        agreement=plan.alignment.agreement,
        colour_change=plan.colour_change,
        residual=plan.residual,
        found=float(plan.found.float().mean()),
        kept=1 - float(area.float().mean()),
        refusal=plan.refusal,
        given=options.refused,
        swapped=_seems_swapped(size, (edited[0], edited[1])),
    )


def _seems_swapped(original: tuple[int, int], edited: tuple[int, int]) -> bool:
    """Whether the original has a size that editors make, and the edit a larger one that they do not."""
    made = [all(side % 8 == 0 for side in size) for size in (original, edited)]
    return made == [True, False] and math.prod(edited) > math.prod(original)


def _colours(picture: Tensor) -> Tensor:
    """The colours ``[H, W, 3]`` of a picture, float32; a grey one's three times."""
    picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].expand(-1, -1, 3)
    return picture.float()


def _shrink(picture: Tensor, longest: int) -> Tensor:
    """A picture ``[H, W, C]`` whose longer side is `longest` at most."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    return _resize(picture, [max(1, round(side * scale)) for side in picture.shape[:2]]).clamp(0, 1)


def _resize(picture: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    """A picture ``[H, W, C]`` at another size; antialiased where it gets smaller."""
    if list(picture.shape[:2]) == list(size):
        return picture
    smaller = size[0] < picture.shape[0] or size[1] < picture.shape[1]
    values = picture.movedim(-1, 0)[None]
    return functional.interpolate(values, list(size), mode="bilinear", antialias=smaller)[0].movedim(0, -1)


def _extent(area: Tensor) -> tuple[slice, slice]:
    """The rows and the columns that hold an area ``[h, w]`` bool."""
    rows, columns = (area.any(axis).nonzero()[:, 0].tolist() or [0, -1] for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _dilate(area: Tensor, radius: int) -> Tensor:
    size = 2 * radius + 1
    across = functional.max_pool2d(area.float()[None, None], (1, size), 1, (0, radius))
    return functional.max_pool2d(across, (size, 1), 1, (radius, 0))[0, 0] > 0


def _chunks(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
