"""What a user should know before a run is over."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...instdiff_core.evidence import TOO_NOISY
from .levels import find_noise_level
from .readers.layouts import FAMILIES
from .sizes import latent_scale, native_side

SUITABLE_NOISE = 1.5
"""Noise to signal at which a sampling should begin: Stable Diffusion's at a denoise of 0.5.

Mask IoU of a small flow model that begins at 0.8, 1.4, 2.1, 3.2: one object 0.81, 0.83, 0.82, 0.77; two 0.57, 0.52,
0.45, 0.31; a new background 0.75, 0.70, 0.65, 0.53.
"""

LARGE = 2.5
"""From how many times these pixels on a picture is large: what costs is attention, which grows with their square."""


def warn_of_size(model: Any, latent: Tensor) -> None:
    """Say that a latent ``[B, C, H, W]`` is far larger than what the model was made for, and what to do."""
    side, scale = native_side(model), latent_scale(model)
    height, width = latent.shape[-2] * scale, latent.shape[-1] * scale
    if height * width > LARGE * side**2:
        notify(
            f"the picture is {width} x {height}, and this model was made for about {side} x "
            f"{side} pixels. It will take long, and small things will be found badly: scale the picture down first "
            f"(Scale Image to Total Pixels, to {side**2 / 1e6:.2g} megapixels), or edit a crop of it, as the template "
            "13_large_photo does"
        )


def warn_of_noise(model: Any, sigma: Tensor) -> None:
    """Say that a sampling of a transformer begins with more noise than shows the picture, and what to set.

    The same denoise gives these models more noise than Stable Diffusion, by the shift of their schedule.
    """
    if type(model.model.diffusion_model).__name__ not in FAMILIES:
        return
    if float(find_noise_level(model.get_model_object("model_sampling"), sigma).ratio) > TOO_NOISY:
        percents = (percent for percent in range(5, 100) if _ratio_at(model, percent / 100) <= SUITABLE_NOISE)
        denoise = max(percents, default=5) / 100
        notify(
            "the sampling begins with so much noise that the picture hardly shows, and the mask will be rough: for "
            f"this model set denoise to about {denoise:.2f}"
        )


def _ratio_at(model: Any, denoise: float) -> float:
    """Noise to signal at a denoise (above 0, below 1) in the model's own schedule."""
    sigma = torch.tensor(model.get_model_object("model_sampling").percent_to_sigma(1 - denoise))
    return float(find_noise_level(model.get_model_object("model_sampling"), sigma).ratio)


def notify(text: str) -> None:
    """Write a warning to the log, and under the node that is executed."""
    logging.warning("InstDiffEdit: %s", text)
    context = get_executing_context()
    # imported by the host where this process is a server, and not to be imported where it is none
    server: Any = getattr(sys.modules.get("server"), "PromptServer", None)
    if context is not None and hasattr(server, "instance"):
        server.instance.send_progress_text(text, context.node_id)
