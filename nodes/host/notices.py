"""What a user should know before a run is over."""

from __future__ import annotations

import logging
import sys
from typing import Any

from comfy_execution.utils import get_executing_context
from torch import Tensor

from .readers.layouts import FAMILIES

NATIVE_SIDES = {768: 512, 1024: 768, 2048: 1024}
"""Pixels across the pictures that a U-Net was made for, by the width of its prompts: SD 1.x, SD 2.x, SDXL.

Of other widths there is only the embedded model, made for 256.
"""

LARGE = 2.5
"""From how many times these pixels on a picture is large: what costs is attention, which grows with their square."""


def native_side(model: Any) -> int:
    """Pixels across the square pictures that a MODEL was made for."""
    if family := FAMILIES.get(type(model.model.diffusion_model).__name__):
        return family.side
    width_of_prompts: Any = model.model.model_config.unet_config.get("context_dim")
    return NATIVE_SIDES.get(width_of_prompts, 256)


def warn_of_size(model: Any, latent: Tensor) -> None:
    """Say that a latent ``[B, C, H, W]`` is far larger than what the model was made for, and what to do."""
    side = native_side(model)
    scale = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
    height, width = latent.shape[-2] * scale, latent.shape[-1] * scale
    if height * width > LARGE * side**2:
        notify(
            f"the picture is {width} x {height}, and this model was made for about {side} x "
            f"{side} pixels. It will take long, and small things will be found badly: scale the picture down first "
            f"(ImageScaleToTotalPixels to {side**2 / 1e6:.2g} megapixels)"
        )


def notify(text: str) -> None:
    """Write a warning to the log, and under the node that is executed."""
    logging.warning("InstDiffEdit: %s", text)
    context = get_executing_context()
    # imported by the host where this process is a server, and not to be imported where it is none
    server: Any = getattr(sys.modules.get("server"), "PromptServer", None)
    if context is not None and hasattr(server, "instance"):
        server.instance.send_progress_text(text, context.node_id)
