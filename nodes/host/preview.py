"""The mask's outline on the previews that the host shows while sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...instdiff_core.drawing import MarchingAnts, find_white_and_black
from .pictures import drop_time

Progress = Callable[[int, Tensor, Tensor, int], Any]
"""A sampler's callback: step, denoised latent, noisy latent, number of steps."""


def outline_previews(
    callback: Progress, latent_format: Any, mask: Callable[[], Tensor | None], like: Tensor
) -> Progress:
    """A callback whose preview shows the outline of the `mask` of the moment ``[B, H, W]`` bool.

    `like` has the device and type of the latents. Latents that the host cannot show stay as they are.
    """
    if latent_format.latent_rgb_factors is None:
        return callback
    # some latents are shown as finer ones, of which each channel here holds a part
    parts = like.shape[1] // len(latent_format.latent_rgb_factors)
    white, black = (
        colour.repeat_interleave(parts).to(like)
        for colour in find_white_and_black(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)
    )
    ants = MarchingAnts(white, black)

    def show(step: int, denoised: Tensor, x: Tensor, total: int) -> Any:
        area = mask()
        if area is None:
            return callback(step, denoised, x, total)
        shown = ants.draw(drop_time(denoised), area, step).view_as(denoised)
        result = callback(step, shown, x, total)
        # who keeps it, as SamplerCustomAdvanced does for its second output, keeps what was denoised
        shown.copy_(denoised)
        return result

    return show
