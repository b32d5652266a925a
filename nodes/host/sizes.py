"""How large the pictures are that a model was made for."""

from __future__ import annotations

from typing import Any

from ...instdiff_core.mini import TEXT_ENCODER
from .readers.layouts import FAMILIES

NATIVE_SIDES = {TEXT_ENCODER["hidden_size"]: 256, 768: 512, 1024: 768, 1280: 1024, 2048: 1024}
"""Pixels across the pictures that a U-Net was made for, by the width of its prompts.

The embedded model, SD 1.x, SD 2.x, SDXL's refiner, SDXL.
"""

USUAL_SIDE = 1024
"""The same of models of other kinds."""


def native_side(model: Any) -> int:
    """Pixels across the square pictures that a MODEL was made for."""
    if family := FAMILIES.get(type(model.model.diffusion_model).__name__):
        return family.side
    width_of_prompts: Any = model.model.model_config.unet_config.get("context_dim")
    return NATIVE_SIDES.get(width_of_prompts, USUAL_SIDE)
