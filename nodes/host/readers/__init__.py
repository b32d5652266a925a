"""Where each family of models is read: a reader for each kind, and a row in `layouts.FAMILIES` for each transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .joint import JointReader
from .layouts import FAMILIES, UNREADABLE
from .unet import UNetReader

if TYPE_CHECKING:
    from ..run import InstantMaskRun


class Reader(Protocol):
    """Reads the attention of a model on a grid of cells, ``(height, width)``.

    `unit` is what begin and end of a part of the latent must be multiples of, for the model to see it as it
    does in the whole; None: the model sees the whole only.
    """

    grid: tuple[int, int]
    unit: int | None

    def install(self, options: dict[str, Any], run: InstantMaskRun) -> None:
        """Put hooks that report to `run` into the model options of its sampling."""


READERS: dict[str, Callable[[Any, tuple[int, int]], Reader]] = {
    "UNetModel": UNetReader,
    **dict.fromkeys(FAMILIES, JointReader),
}
"""By the class of the host's diffusion model: a reader of that model and of latents of a size."""


def check_readable(model: Any) -> None:
    """Raises ``ValueError`` for a MODEL whose family has no reader."""
    kind = _kind(model)
    if kind in READERS:
        return
    if kind in UNREADABLE:
        reason = f"{UNREADABLE[kind]} shows its attention to no node"
    else:
        reason = f"{type(model.model).__name__} is a kind of model that InstDiffEdit does not know"
    names = ", ".join(family.name for family in FAMILIES.values())
    raise ValueError(f"{reason}. Load a model of one of these kinds: Stable Diffusion 1.x, 2.x, SDXL, {names}")


def reader_for(model: Any, latent_size: tuple[int, int]) -> Reader:
    """The reader of a MODEL for latents of ``(height, width)``. Raises ``ValueError`` where nothing can be read."""
    return READERS[_kind(model)](model.model.diffusion_model, latent_size)


def _kind(model: Any) -> str:
    """The class by which the readers know a MODEL: of transformers its very own, not one that it derives from."""
    network = model.model.diffusion_model
    return "UNetModel" if isinstance(network, UNetModel) else type(network).__name__
