"""How an editor moved a picture: a homography from the original's places to the edit's.

Places are those of torch's ``grid_sample`` without aligned corners: -1..1 from border to border, across and
down, whatever the picture's size. The identity is the edit stretched to the original's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

RADIUS = 8
"""Pixels around a place by whose mean and contrast its brightness is normalised."""

CONTRAST = 0.03
"""Less contrast than about this is noise, which normalisation must not enlarge."""

LEVELS, SHORTEST = 5, 32
"""Levels of the pyramid at most, and how short the shorter side of its smallest picture may be."""

POINTS = 60_000
"""Places of strong gradient that are compared at each level."""

ROUNDS, CLOSE = 30, 0.01
"""Gauss-Newton rounds of a level at most, and the step in pixels at which it is done."""

OUTLYING = 4 * 1.4826
"""How many times the median an error must be to count for nothing: four standard deviations, were errors normal."""

TILE = 16
"""Pixels across the squares in which `measure_agreement` compares pictures."""

AGREES = 0.5
"""The correlation from which a square shows the same in both pictures."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the original's places ``(x, y, 1)`` are in the edit, `homography` ``[3, 3]`` float64.

    `agreement` (0 to 1) is the part of the squares with something to see in them that show the same in
    both pictures; not a number where there are none. Before the homography the places are shifted by `warp`
    ``[2, h, w]``, a coarse field of shifts across and down; None: they are not.
    """

    homography: Tensor
    agreement: float
    warp: Tensor | None = None

    def grid(self, rows: slice, size: tuple[int, int]) -> Tensor:
        """Where rows of an original of a `size` ``(H, W)`` are in the edit, ``[1, h, W, 2]`` for ``grid_sample``."""
        down, across = _centres(size[0])[rows, None], _centres(size[1])[None]
        if self.warp is not None:
            places = torch.stack([across.expand(len(down), -1), down.expand(-1, size[1])], -1)[None]
            shifts = functional.grid_sample(self.warp[None], places, "bilinear", "border", align_corners=False)[0]
            across, down = across + shifts[0], down + shifts[1]
        return _project(self.homography, across, down)[None]

    def movement(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """What it is in the middle of an original of a `size` ``(H, W)``: shift across and down, zoom, rotation.

        The shift is in pixels of the original, the zoom 1 where nothing grew, the rotation in degrees, clockwise.
        """
        height, width = size
        half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        steps = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64) * 1e-3
        places = _project(self.homography.double(), steps[:, 0], steps[:, 1]).double() * half
        right, down = (places[1] - places[0]) / half[0] / 1e-3, (places[2] - places[0]) / half[1] / 1e-3
        zoom = math.sqrt(abs(float(right[0] * down[1] - right[1] * down[0])))
        rotation = math.degrees(math.atan2(float(right[1] - down[0]), float(right[0] + down[1])))
        return float(places[0, 0]), float(places[0, 1]), zoom, rotation


def align(original: Tensor, edited: Tensor, usable: Tensor) -> Alignment:
    """Lay an edit over its original, both grey ``[h, w]`` in 0..1, of like scale but of any size.

    `usable` ``[h, w]`` bool says what of the original may be compared. Several starts are tried at the
    smallest level of a pyramid (stretched, cropped, with bars, each as it is and shifted by phase correlation),
    the best is refined at all levels, by inverse compositional Gauss-Newton on normalised pictures with Tukey's
    weights, so that the edit itself, a cast or another contrast count for nothing (Baker and Matthews 2004).
    """
    levels = [
        (normalize(first), normalize(second), shrink(usable.float(), first.shape) > 0.99)
        for first, second in zip(_pyramid(original), _pyramid(edited), strict=False)
    ]
    homography = _start(*levels[-1])
    for number, (first, second, area) in reversed(list(enumerate(levels))):
        homography = _refine(first, second, area, homography, projective=number < 2)
    compared = min(1, len(levels) - 1)
    return Alignment(homography, measure_agreement(*levels[compared], homography))


def normalize(grey: Tensor) -> Tensor:
    """A picture ``[h, w]`` less its local mean, by its local contrast: what stays when its colours change."""
    mean = box(grey)
    variance = (box(grey.square()) - mean.square()).clamp(min=0)
    return (grey - mean) / (variance.sqrt() + CONTRAST)


def box(values: Tensor, radius: int = RADIUS) -> Tensor:
    """The mean of ``[h, w]`` over windows of `radius` pixels, cut at the border."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = functional.pad(values.double().cumsum(axis), (0, 0, 1, 0) if axis == 0 else (1, 0))
        places = torch.arange(length)
        low, high = (places - radius).clamp(min=0), (places + radius + 1).clamp(max=length)
        count = (high - low).view(-1, 1) if axis == 0 else (high - low).view(1, -1)
        values = ((sums.index_select(axis, high) - sums.index_select(axis, low)) / count).float()
    return values


def measure_agreement(first: Tensor, second: Tensor, area: Tensor, homography: Tensor) -> float:
    """The `Alignment.agreement` of normalised pictures, inside `area` ``[h, w]`` bool of the first."""
    alignment = Alignment(homography, math.nan)
    grid = alignment.grid(slice(None), (first.shape[0], first.shape[1]))
    seen = area & (grid[0].abs() <= 1).all(-1)
    moved = functional.grid_sample(second[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    side = max(4, min(TILE, min(first.shape) // 8))

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d((values * seen)[None, None], side)[0, 0]

    share = mean(torch.ones_like(first)).clamp(min=1e-6)
    means = [mean(values) / share for values in (first, moved)]
    products = [mean(a * b) / share for a, b in ((first, first), (moved, moved), (first, moved))]
    variances = products[0] - means[0].square(), products[1] - means[1].square()
    covariance = products[2] - means[0] * means[1]
    textured = (share > 0.9) & (variances[0] > 0.15)
    if not textured.any():
        return math.nan
    correlation = covariance / (variances[0] * variances[1]).clamp(min=1e-6).sqrt()
    return float((correlation[textured] > AGREES).float().mean())


def _pyramid(grey: Tensor) -> Iterator[Tensor]:
    """A picture and its halves, the largest first."""
    yield grey
    for _ in range(LEVELS - 1):
        if min(grey.shape) < 2 * SHORTEST:
            return
        grey = shrink(grey, (grey.shape[0] // 2, grey.shape[1] // 2))
        yield grey


def shrink(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Values ``[h, w]`` at a smaller size, antialiased."""
    if tuple(values.shape) == tuple(size):
        return values
    return functional.interpolate(values[None, None], tuple(size), mode="bilinear", antialias=True)[0, 0]


def _start(first: Tensor, second: Tensor, area: Tensor) -> Tensor:
    """The best of the starts, after a few rounds each."""
    starts = []
    for scale in _scales(first, second):
        starts += [scale, scale @ _phase_shift(first, second, scale)]
    refined = [_refine(first, second, area, start, projective=False) for start in starts]
    return min(refined, key=lambda homography: _cost(first, second, area, homography))


def _scales(first: Tensor, second: Tensor) -> list[Tensor]:
    """The edit stretched to the original; where their shapes differ also cropped, and with bars."""
    (height, width), (other_height, other_width) = first.shape, second.shape
    ratio = (width / height) / (other_width / other_height)
    scales = [(1.0, 1.0)]
    if abs(math.log(ratio)) > 0.01:
        scales += [(ratio, 1.0), (1.0, 1 / ratio)]
    return [torch.diag(torch.tensor([across, down, 1.0], dtype=torch.float64)) for across, down in scales]


def _phase_shift(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """By how much the original's places must move before `scale`, found by phase correlation."""
    height, width = first.shape
    moved = _sample(second, Alignment(scale, 0).grid(slice(None), (height, width)))
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    spectrum = torch.fft.rfft2(first * window).conj() * torch.fft.rfft2(moved * window)
    peak = int(torch.fft.irfft2(spectrum / spectrum.abs().clamp(min=1e-9), s=(height, width)).argmax())
    down, across = divmod(peak, width)
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2] = 2 * ((across + width // 2) % width - width // 2) / width
    shift[1, 2] = 2 * ((down + height // 2) % height - height // 2) / height
    return shift


def _cost(first: Tensor, second: Tensor, area: Tensor, homography: Tensor) -> float:
    """How badly a homography lays the second picture over the first, 0 to 2: 1 less their correlation."""
    grid = Alignment(homography, 0).grid(slice(None), (first.shape[0], first.shape[1]))
    seen = area & (grid[0].abs() <= 1).all(-1)
    if seen.float().mean() < 0.3 * area.float().mean():
        return 2.0
    moved = _sample(second, grid)
    difference = (first - moved).abs().clamp(max=1)  # what was edited counts for no more than one
    return float(difference[seen].mean())


def _refine(first: Tensor, second: Tensor, area: Tensor, homography: Tensor, *, projective: bool) -> Tensor:
    """Gauss-Newton at one level, affine or projective."""
    height, width = first.shape
    across, down, values, jacobian = _points(first, area, 8 if projective else 6)
    if len(values) < 20:
        return homography
    pixels = torch.tensor([width / 2, height / 2])
    for _ in range(ROUNDS):
        grid = _project(homography, across, down)
        residual = _sample(second, grid[None, None])[0] - values
        inside = (grid.abs() <= 1).all(-1)
        weight = weigh(residual, inside)
        weighted = jacobian * weight[:, None]
        normal, side = (weighted.T @ jacobian).double(), (weighted.T @ residual).double()
        damping = 1e-6 * normal.diagonal().mean().clamp(min=1e-12) * torch.eye(len(normal), dtype=torch.float64)
        step = torch.linalg.solve(normal + damping, side)
        update = _matrix(step)
        homography = homography @ torch.linalg.inv(update)
        homography = homography / homography[2, 2]
        moved = _project(update, torch.tensor([-1.0, 1, -1, 1]), torch.tensor([-1.0, -1, 1, 1]))
        corners = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
        if float(((moved - corners) * pixels).norm(dim=1).max()) < CLOSE:
            break
    return homography


def _points(picture: Tensor, area: Tensor, parameters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The places ``x`` and ``y`` ``[n]`` to compare, the picture's values there, and their Jacobian ``[n, p]``."""
    height, width = picture.shape
    slope_across, slope_down = gradients(picture)
    strength = torch.hypot(slope_across, slope_down)
    nearby = box(strength, 4)
    strength = torch.where(area, strength / (nearby + nearby.mean() + 1e-6), 0)
    strength[[0, -1]], strength[:, [0, -1]] = 0, 0
    chosen = strength.flatten().topk(min(POINTS, strength.numel() // 3)).indices
    chosen = chosen[strength.flatten()[chosen] > 0]
    x = _centres(width)[chosen % width]
    y = _centres(height)[torch.div(chosen, width, rounding_mode="floor")]
    along_x, along_y = slope_across.flatten()[chosen] * width / 2, slope_down.flatten()[chosen] * height / 2
    columns = [along_x * x, along_x * y, along_x, along_y * x, along_y * y, along_y]
    if parameters == 8:
        radial = along_x * x + along_y * y
        columns += [-radial * x, -radial * y]
    return x, y, picture.flatten()[chosen], torch.stack(columns, 1)


def gradients(picture: Tensor) -> tuple[Tensor, Tensor]:
    """How a picture ``[h, w]`` rises by the pixel, across and down; 0 at its border."""
    across, down = torch.zeros_like(picture), torch.zeros_like(picture)
    across[:, 1:-1] = (picture[:, 2:] - picture[:, :-2]) / 2
    down[1:-1] = (picture[2:] - picture[:-2]) / 2
    return across, down


def tukey(errors: Tensor, limit: float | Tensor) -> Tensor:
    """Tukey's weights of errors of any shape: 1 for none, 0 from the `limit` on."""
    return (1 - (errors / limit).square()).clamp(min=0).square()


def weigh(residual: Tensor, inside: Tensor) -> Tensor:
    """Weights 1 to 0 of residuals of any shape: 0 for outlying ones, and where not `inside` (bool)."""
    size = residual.abs()
    limit = OUTLYING * float(size[inside].median()) + 1e-6 if inside.any() else 1e-6
    return tukey(size, limit) * inside


def differences(first: Tensor, second: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor]:
    """An edit, as it lies over its original, less that, and where it has something; all ``[h, w]``."""
    grid = alignment.grid(slice(None), (first.shape[0], first.shape[1]))
    return _sample(second, grid) - first, (grid[0].abs() <= 1).all(-1)


def _matrix(step: Tensor) -> Tensor:
    """The homography near the identity that Gauss-Newton's parameters stand for."""
    values = torch.cat([step, step.new_zeros(9 - len(step))])
    return torch.eye(3, dtype=torch.float64) + values.view(3, 3)


def _project(homography: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where places are in the edit, ``[..., 2]`` float32. Those behind the picture are far outside it."""
    (a, b, c), (d, e, f), (g, h, i) = homography.tolist()
    depth = (g * x + h * y + i).clamp(min=1e-3)
    return torch.stack([(a * x + b * y + c) / depth, (d * x + e * y + f) / depth], -1)


def _sample(picture: Tensor, grid: Tensor) -> Tensor:
    """The bicubic values of a picture ``[h, w]`` at places ``[1, ..., 2]``; beyond its border those of the border."""
    shape = grid.shape[1:-1]
    grid = grid.view(1, 1, -1, 2)
    values = functional.grid_sample(picture[None, None], grid, "bicubic", "border", align_corners=False)
    return values.view(*shape)


def _centres(length: int) -> Tensor:
    """The places of a row's pixels."""
    return (2 * torch.arange(length) + 1) / length - 1
