"""How large the pictures are that a model was made for, and how large its latents' pixels are in them."""

from __future__ import annotations

from typing import Any

from ...instdiff_core.look import find_look_size
from ...instdiff_core.mini import TEXT_ENCODER
from .readers import Reader
from .readers.layouts import FAMILIES

NATIVE_SIDES = {TEXT_ENCODER["hidden_size"]: 256, 768: 512, 1024: 768, 1280: 1024, 2048: 1024}
"""Pixels across the pictures that a U-Net was made for, by the width of its prompts.

The embedded model, SD 1.x, SD 2.x, SDXL's refiner, SDXL.
"""

USUAL_SIDE = 1024
"""The same of models of other kinds."""

SCALES = {"ChromaRadiance": 1, "Wan22": 16, "HunyuanImage21": 32}
"""Pixels across a latent pixel, by the class of the host's latent format, where they are not 8.

For hosts whose formats do not say it themselves (ComfyUI v0.3.64).
"""


def native_side(model: Any) -> int:
    """Pixels across the square pictures that a MODEL was made for."""
    if family := FAMILIES.get(type(model.model.diffusion_model).__name__):
        return family.side
    width_of_prompts: Any = model.model.model_config.unet_config.get("context_dim")
    return NATIVE_SIDES.get(width_of_prompts, USUAL_SIDE)


def latent_scale(model: Any) -> int:
    """Image pixels across a latent pixel of a MODEL."""
    latent_format = model.get_model_object("latent_format")
    scale: int = getattr(latent_format, "spacial_downscale_ratio", SCALES.get(type(latent_format).__name__, 8))
    return scale


def size_to_look(model: Any, reader: Reader, latent_size: tuple[int, int]) -> tuple[int, int]:
    """The size ``(height, width)`` in which a MODEL looks at latents of a size, which its `reader` reads.

    Their own for models that see the whole picture only, and for those that get a picture of its size beside it, as
    inpainting models do.
    """
    network, channels = model.model.diffusion_model, model.get_model_object("latent_format").latent_channels
    if reader.unit is None or network.in_channels != channels:
        return latent_size
    return find_look_size(latent_size, (native_side(model) // latent_scale(model)) ** 2, reader.unit)
