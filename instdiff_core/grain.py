"""The grain of a photo, given to what was painted into it: VAE and resizing leave an edit smoother than the rest."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .maps import TINY, blur_gaussian

RING = 64
"""Width in pixels of the ring around a painted area in which the grain is measured."""

TILE = 12
"""Side in pixels of the tiles that are measured: grain that is coarser is taken for the photo's content."""

MOST = 0.06
"""Above it, of a brightness of 0 to 1, what the tiles show is no grain, but grass or sand."""

SMOOTHEST, ALIKE = 0.05, 2.0
"""Tiles show grain alone where their variance is at most `ALIKE` times that at this quantile of all tiles."""

SOURCES = 16
"""From how many tiles the look of the grain is taken."""

FIELD = 512
"""Side in pixels of the made grain, which is repeated beyond."""

FINE, NEAR = 1.0, 8.0
"""Sigmas in pixels: detail is what a Gaussian of the first takes away, and is compared in windows of the second."""


def add_grain(image: Tensor, painted: Tensor, alpha: Tensor) -> Tensor:
    """`painted` with the grain of its surroundings, as far as it is smoother than they are.

    `image` ``[B, H, W, C]`` and `painted` ``[B, H, W, 3]`` in 0..1, `alpha` ``[B, H, W]`` in 0..1 as in
    `blend.paste`. The grain is that of the smoothest tiles in a ring around the area that is pasted; made anew, with
    their strength, spectrum and colours, the same at each call. It is stronger in the soft edge, so that after pasting
    it is as strong as elsewhere. Nothing is added where the ring shows no grain, or none of the picture.
    """
    grainy = painted.clone()
    for under, over, weight in zip(image[..., : painted.shape[-1]], grainy, alpha, strict=True):
        if not weight.any():
            continue
        rows, columns = (_extent((weight > 0).any(axis)) for axis in (1, 0))
        part = under[rows, columns], over[rows, columns], weight[rows, columns]
        grain = _grain_for(*(values.float() for values in part))
        if grain is not None:
            lowest, highest = over.amin().clamp(max=0), over.amax().clamp(min=1)
            over[rows, columns] = (part[1] + grain.to(over)).clamp(lowest, highest)
    return grainy


def _extent(marked: Tensor) -> slice:
    """From the first to the last of the places ``[N]`` bool, of which there are some, and the ring."""
    places = marked.nonzero()
    return slice(max(0, int(places[0]) - RING), int(places[-1]) + RING + 1)


def _grain_for(image: Tensor, painted: Tensor, alpha: Tensor) -> Tensor | None:
    """What to add to `painted` ``[H, W, 3]`` inside `alpha` ``[H, W]``; None where no grain is seen."""
    tiles = _find_grain(image, alpha)
    if tiles is None:
        return None
    field = _make_field(tiles)
    usual = _details(field).square().mean()
    missing = 1 - _measure(_details(painted), usual, NEAR) / _measure(_details(field), usual)
    # grain of two layers that are mixed is weaker than that of either
    mixing = ((2 - alpha) / alpha.clamp(min=TINY)) * (alpha > 0)
    height, width = alpha.shape
    repeated = field.repeat(-(-height // FIELD), -(-width // FIELD), 1)[:height, :width]
    return repeated * (missing.clamp(min=0) * mixing).sqrt()[..., None]


def _find_grain(image: Tensor, alpha: Tensor) -> Tensor | None:
    """Tiles ``[N, 3, TILE, TILE]`` around an area that show grain alone, without their colour and its slope.

    None where there are none, or what they show is too strong for grain.
    """
    area = (alpha > 0).float()
    around = area[None]
    for kernel, padding in (((2 * RING + 1, 1), (RING, 0)), ((1, 2 * RING + 1), (0, RING))):
        around = functional.max_pool2d(around, kernel, 1, padding)
    height, width = (length - length % TILE for length in alpha.shape)
    tiles, usable, painted = (
        rearrange(values[:height, :width], "(rows h) (columns w) c -> (rows columns) c (h w)", h=TILE, w=TILE)
        for values in (image, around[0, ..., None], area[..., None])
    )
    # where a photo is burnt out or black it has no grain to show
    exposed = (tiles.amax((1, 2)) < 1) & (tiles.amin((1, 2)) > 0)
    tiles = tiles[usable.amin((1, 2)).bool() & ~painted.amax((1, 2)).bool() & exposed]
    if not len(tiles):
        return None
    places = torch.linspace(-1, 1, TILE, device=tiles.device)
    slopes = torch.stack([torch.ones(TILE, TILE, device=tiles.device), *torch.meshgrid(places, places, indexing="ij")])
    slopes = functional.normalize(slopes.flatten(1))
    tiles = tiles - tiles @ slopes.T @ slopes
    variances = tiles.mean(1).square().mean(1)
    smooth = variances <= ALIKE * variances.quantile(SMOOTHEST)
    if variances[smooth].mean() > MOST**2:
        return None
    return rearrange(tiles[smooth], "n c (h w) -> n c h w", h=TILE, w=TILE)


def _make_field(tiles: Tensor) -> Tensor:
    """Grain ``[FIELD, FIELD, 3]`` that looks like that of the tiles, and can be laid side by side.

    Noise under a few of the tiles as filters: it has the mean of their spectra, and their channels go together as
    theirs do (Galerne et al. 2011, *Random Phase Textures*).
    """
    filters = tiles[torch.linspace(0, len(tiles) - 1, min(SOURCES, len(tiles))).round().long()]
    noise = torch.randn(len(filters), 1, FIELD, FIELD, generator=torch.Generator().manual_seed(0)).to(tiles)
    spectra = sum(
        torch.fft.rfft2(one, (FIELD, FIELD)) * torch.fft.rfft2(under) for one, under in zip(filters, noise, strict=True)
    )
    field = torch.fft.irfft2(spectra, (FIELD, FIELD)).movedim(0, -1)
    strength = tiles.mean(1).std(correction=0)
    return field * strength / field.mean(-1).std().clamp(min=TINY)


def _details(picture: Tensor) -> Tensor:
    """The fine detail ``[H, W]`` in the brightness of a picture ``[H, W, 3]``."""
    brightness = picture.mean(-1)
    return brightness - blur_gaussian(brightness[None], FINE)[0]


def _measure(details: Tensor, usual: Tensor, spread: float | None = None) -> Tensor:
    """The mean square of details ``[H, W]``, around each place, or over all of them.

    Squares above the `usual` one count as that, so that an edge does not pass for grain.
    """
    squares = torch.minimum(details.square(), usual)
    return squares.mean() if spread is None else blur_gaussian(squares[None], spread)[0]
