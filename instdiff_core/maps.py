"""Operations on maps ``[..., H, W]``: stretching, smoothing, cutting, and following a picture's edges.

All are batched, stay on the device of the maps, and never wait for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

TINY = 1e-6
ROUNDING = 1e-5
"""Maps that vary by less than this part of themselves are constant: resizing alone does that to one."""

LEVELS = 256
"""Grey levels of the histogram in which `find_otsu_threshold` looks."""

EDGE = 0.01
"""How much variance, of all that the guide has, is an edge to `follow_edges` (its epsilon)."""


def rescale_to_unit(maps: Tensor) -> Tensor:
    """Each map stretched to 0..1 over its last two axes; a constant map becomes zero."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    rounding = ROUNDING * torch.maximum(high, -low)
    return torch.where(spread > rounding.clamp(min=TINY), (maps - low) / spread, 0.0)


def resize(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Maps ``[B, h, w]`` at another size ``(H, W)``, by torch's interpolation `mode`."""
    return functional.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]


def blur_gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Maps ``[C, h, w]`` under a Gaussian, cut at the border."""
    radius = round(3 * sigma)
    taps = torch.exp(-torch.arange(-radius, radius + 1, device=maps.device).float().square() / (2 * sigma**2))
    taps = (taps / taps.sum()).view(1, 1, 1, -1)
    blurred = functional.conv2d(maps[:, None], taps, padding=(0, radius))
    return functional.conv2d(blurred, taps.movedim(-1, -2), padding=(radius, 0))[:, 0]


def blur(maps: Tensor, times: int) -> Tensor:
    """Maps ``[B, H, W]`` under OpenCV's 5x5 Gaussian (sigma 1.1) with repeated borders, `times` over."""
    if not times:
        return maps
    taps = torch.exp(-torch.arange(-2, 3, device=maps.device, dtype=torch.float32).square() / (2 * 1.1**2))
    kernel = taps / taps.sum()
    smooth = maps[:, None]
    for _ in range(times):
        smooth = functional.pad(smooth, (2, 2, 2, 2), mode="replicate")
        smooth = functional.conv2d(functional.conv2d(smooth, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    return smooth[:, 0]


def find_otsu_threshold(maps: Tensor) -> Tensor:
    """The threshold ``[B]`` that parts maps ``[B, H, W]`` in 0..1 best in two (Otsu 1979)."""
    levels = (maps.flatten(1) * (LEVELS - 1)).round().long()
    counts = torch.zeros(len(maps), LEVELS, device=maps.device)
    counts = counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=counts.dtype)) / levels.shape[1]
    values = torch.linspace(0, 1, LEVELS, device=maps.device)
    below, sums = counts.cumsum(1), (counts * values).cumsum(1)
    between = (sums[:, -1:] * below - sums).square() / (below * (1 - below)).clamp(min=TINY)
    # the cut lies between the last level below and the next one
    return values[between.argmax(1)] + 0.5 / (LEVELS - 1)


def centre_threshold(maps: Tensor) -> Tensor:
    """Maps ``[B, H, W]`` in 0..1 bent so that one half is where they part best in two."""
    cut = find_otsu_threshold(maps)[:, None, None]
    return torch.where(maps < cut, maps / (2 * cut), 1 - (1 - maps) / (2 * (1 - cut)).clamp(min=TINY)).clamp(0, 1)


def measure_separation(soft: Tensor, binary: Tensor) -> Tensor:
    """How cleanly `binary` parts `soft`, both ``[B, H, W]``: the between-class share of its variance, ``[B]`` in 0..1.

    0 for an empty or a full mask.
    """
    share = binary.float().mean((-2, -1))
    mean = soft.mean((-2, -1))
    inside = (soft * binary).mean((-2, -1)) / share.clamp(min=TINY)
    outside = (soft * ~binary).mean((-2, -1)) / (1 - share).clamp(min=TINY)
    between = share * (inside - mean).square() + (1 - share) * (outside - mean).square()
    usable = (share > 0) & (share < 1)
    return torch.where(usable, between / soft.var((-2, -1), correction=0).clamp(min=TINY), 0.0).clamp(0, 1)


def follow_edges(maps: Tensor, image: Tensor, radius: int) -> Tensor:
    """Maps ``[B, h, w]`` in 0..1 at the size of an image ``[B, C, H, W]``, with its edges: see `EdgeFilter`."""
    return EdgeFilter(image, (maps.shape[-2], maps.shape[-1]), radius).follow(maps)


class EdgeFilter:
    """The fast guided filter (He and Sun 2015), which brings maps to the size of an image, with its edges.

    In windows of `radius` pixels of a map of `size` ``(h, w)``, the map is fitted by a linear
    function of the channels of the `image` ``[B, C, H, W]`` there, and the functions are applied to
    the whole image. Our own, since the libraries' solves wait for the device. What depends on the
    image alone is computed once, for all the maps that follow it.
    """

    def __init__(self, image: Tensor, size: tuple[int, int], radius: int) -> None:
        image = image.float()
        channels = image.shape[1]
        spread = image.std((-3, -2, -1), keepdim=True).clamp(min=TINY)
        self._image = (image - image.mean((-3, -2, -1), keepdim=True)) / spread
        self._radius = radius
        self._small = functional.interpolate(self._image, size, mode="area")
        self._mean = _box(self._small, radius)
        pair = self._small, self._mean
        products, mean_products = ((maps[:, :, None] * maps[:, None]).flatten(1, 2) for maps in pair)
        variance = rearrange(_box(products, radius) - mean_products, "b (c d) h w -> b h w c d", c=channels)
        identity = torch.eye(channels, device=image.device)
        inverse = torch.linalg.solve_ex(variance + EDGE * identity, identity.expand_as(variance))[0]
        self._inverse = rearrange(inverse, "b h w c d -> b c d h w").contiguous()
        # with ones before it, so that a map is averaged together with its products
        self._small = functional.pad(self._small, (0, 0, 0, 0, 1, 0), value=1.0)
        self._image = self._image.contiguous()

    def follow(self, maps: Tensor) -> Tensor:
        """Maps ``[B, h, w]`` in 0..1 at the image's size ``[B, H, W]``, in 0..1."""
        size = self._image.shape[-2], self._image.shape[-1]
        means = _box(self._small * maps[:, None], self._radius)
        mean_map = means[:, :1]
        covariance = means[:, 1:] - self._mean * mean_map
        slope = (self._inverse * covariance[:, None]).sum(2)
        offset = mean_map - (slope * self._mean).sum(1, keepdim=True)
        functions = _box(torch.cat([slope, offset], 1), self._radius)
        if functions.shape[-2:] != self._image.shape[-2:]:
            functions = functional.interpolate(functions, size, mode="bilinear")
        # in place: at the size of a picture most of the time goes into memory
        return functions[:, :-1].mul_(self._image).sum(1).add_(functions[:, -1]).clamp_(0, 1)


class KeptFilters:
    """`follow_edges`, with the filters of the last two images kept: a latent and a picture."""

    def __init__(self) -> None:
        self._filters: OrderedDict[Hashable, tuple[Tensor, EdgeFilter]] = OrderedDict()

    def __call__(self, maps: Tensor, image: Tensor, radius: int) -> Tensor:
        size = maps.shape[-2], maps.shape[-1]
        key = image.data_ptr(), image.shape, size, radius
        if key not in self._filters:
            # the image is kept too: as long as it is there, no other one has its place in memory
            self._filters[key] = image, EdgeFilter(image, size, radius)
        self._filters.move_to_end(key)
        while len(self._filters) > 2:
            self._filters.popitem(last=False)
        return self._filters[key][1].follow(maps)


def _box(maps: Tensor, radius: int) -> Tensor:
    """The mean over windows, cut at the border."""
    for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        maps = functional.avg_pool2d(maps, kernel, 1, padding, count_include_pad=False)
    return maps
