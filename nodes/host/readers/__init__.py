"""Where each family of models is read: a file for each family, and a line in `READERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .unet import UNetReader

if TYPE_CHECKING:
    from ..run import InstantMaskRun


class Reader(Protocol):
    """Reads the attention of a model on a grid of cells, ``(height, width)``."""

    grid: tuple[int, int]

    def install(self, options: dict[str, Any], run: InstantMaskRun) -> None:
        """Put hooks that report to `run` into the model options of its sampling."""


READERS: Mapping[type, Callable[[Any, tuple[int, int]], Reader]] = {UNetModel: UNetReader}
"""By the class of the host's diffusion model: a reader of that model and of latents of a size."""


def check_readable(model: Any) -> None:
    """Raises ``ValueError`` for a MODEL whose family has no reader."""
    if not any(isinstance(model.model.diffusion_model, family) for family in READERS):
        raise ValueError(
            f"{type(model.model).__name__} has no U-Net with cross-attention. InstDiffEdit works with Stable "
            "Diffusion 1.x, 2.x and SDXL models: load one of those"
        )


def reader_for(model: Any, latent_size: tuple[int, int]) -> Reader:
    """The reader of a MODEL for latents of ``(height, width)``. Raises ``ValueError`` where nothing can be read."""
    network = model.model.diffusion_model
    return next(reader for family, reader in READERS.items() if isinstance(network, family))(network, latent_size)
