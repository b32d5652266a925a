"""Edits inside a mask that the user has drawn, instead of one that is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..arrays import Mask, Picture
from ..options import MaskSettings
from ..refine import InstantMask
from ..session import MaskSession
from .editing import NewSession
from .model import EditModel


class OwnMaskSession(MaskSession):
    """A run inside `mask` ``[H, W]`` bool, which has the picture's size, on latents of `size` ``(h, w)``.

    A latent pixel is edited when more than half of it lies in the mask. What is found is recorded all
    the same. The other arguments are those of `MaskSession`.
    """

    def __init__(self, mask: Mask, size: tuple[int, int], device: torch.device, *session: Any) -> None:
        super().__init__(*session)
        self._own = torch.tensor(mask)[None]
        share = functional.adaptive_avg_pool2d(self._own.float(), size)
        self.fix_mask((share > 0.5).to(device))

    def final(self, size: tuple[int, int], settings: MaskSettings, picture: Tensor) -> InstantMask:
        return replace(super().final(size, settings, picture), soft=self._own.float(), binary=self._own)


def own_masks(model: EditModel, masks: Sequence[Mask | None]) -> NewSession:
    """The sessions of pictures of one size: inside each one's own mask, or inside that which is found, for None."""

    def new_session(number: int, *session: Any) -> MaskSession:
        mask = masks[number]
        if mask is None:
            return MaskSession(*session)
        height, width = model.working_size(*mask.shape)
        return OwnMaskSession(mask, (height // model.scale, width // model.scale), model.device, *session)

    return new_session


def check_own_mask(mask: Mask, picture: Picture) -> None:
    """Raises ``ValueError`` for a mask of another size than the picture's, and for an empty one."""
    if mask.shape != picture.shape[:2]:
        (rows, columns), (height, width) = mask.shape, picture.shape[:2]
        raise ValueError(f"the mask has {columns} x {rows} pixels, the picture {width} x {height}")
    if not mask.any():
        raise ValueError("the mask is empty")
