"""Region sampling: once the mask has settled, the model computes its surroundings only.

What surrounds them is put back after every step anyway. The model's input is cut just before the U-Net,
and its output put into zeros just behind it, so that samplers, guiders and conditionings see whole latents.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...instdiff_core.session import EditSessions
from ...instdiff_core.settling import Frame, Settling, frame_masks
from .patches import find_patches
from .readers import Reader

MARGIN = 2
"""How much is computed around the mask, in cells of the grid on which the attention is read."""


class RegionSampling:
    """The region of one sampling, None until the mask has settled, and for good where only the whole can be computed.

    `options` are the model options of the sampling, without our hooks yet, and `conds` its conditionings.
    """

    def __init__(self, reader: Reader, options: dict[str, Any], conds: dict[str, list[dict[str, Any]]]) -> None:
        self._unit, self._grid = reader.unit, reader.grid
        self._obstacle = _obstacle(reader, options, conds)
        self._settling = Settling()
        self._frame: Frame | None = None
        self._size: tuple[int, int] = (0, 0)
        self._steps = self._cut_steps = 0
        self._ended = False

    def install(self, options: dict[str, Any]) -> None:
        """Put the hook into the model options of the sampling, where there is nothing in its way."""
        if self._obstacle is None:
            comfy.patcher_extension.add_wrapper(WrappersMP.DIFFUSION_MODEL, self._call, options, is_model_options=True)

    def close_step(self, session: EditSessions) -> None:
        """See what a step made of the mask. Waits for the device until the mask has settled."""
        self._steps += 1
        if self._frame is not None:
            self._cut_steps += 1
        elif self._obstacle is None and session.mask is not None and self._settled(session):
            self._size = session.mask.shape[-2], session.mask.shape[-1]
            assert self._unit is not None
            margin = MARGIN * -(-self._size[0] // self._grid[0])
            self._frame = frame_masks(session.mask, margin, self._unit)
            if self._frame is None:
                self._obstacle = "the surroundings of the mask are most of the picture"

    def end(self) -> None:
        """Compute the whole picture again, after the last step."""
        self._ended = True

    def remark(self) -> str:
        """What the report says."""
        if self._frame is not None:
            rows, columns = ((span.stop - span.start) for span in self._frame)
            part = rows * columns / (self._size[0] * self._size[1])
            return (
                f"region: the mask settled after {self._steps - self._cut_steps} of {self._steps} steps, and the rest "
                f"computed {part:.0%} of the picture"
            )
        return f"region: every step computed the whole picture, since {self._obstacle or 'the mask did not settle'}"

    def _settled(self, session: EditSessions) -> bool:
        """A mask that is not found in the sampling has settled, but its record needs a step."""
        assert session.mask is not None
        if session.confidence is None:
            return session.observed_steps > 0
        return self._settling.add(session.mask, session.confidence, session.is_steady)

    def _call(
        self, executor: Any, x: Tensor, timesteps: Any = None, context: Any = None, y: Any = None,
        control: dict[str, list[Tensor | None]] | None = None, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """DIFFUSION_MODEL: a call on the whole latent, on the region alone."""
        if self._frame is None or self._ended or tuple(x.shape[-2:]) != self._size:
            return executor(x, timesteps, context, y, control, *args, **kwargs)
        if control is not None:
            control = {name: [self._cut(hint) for hint in hints] for name, hints in control.items()}
        part: Tensor = executor(self._cut(x), timesteps, context, y, control, *args, **kwargs)
        output = part.new_zeros(*part.shape[:-2], *self._size)
        output[..., self._frame[0], self._frame[1]] = part
        return output

    def _cut(self, values: Tensor | None) -> Any:
        """The region of a tensor ``[B, C, h, w]`` on the latent's grid, or on a coarser one of the U-Net."""
        if values is None or self._frame is None:
            return values
        # the U-Net halves a side and rounds up
        scale = 2 ** round(math.log2(self._size[0] / values.shape[-2]))
        rows, columns = (slice(span.start // scale, -(-span.stop // scale)) for span in self._frame)
        return values[..., rows, columns]


def _obstacle(reader: Reader, options: dict[str, Any], conds: dict[str, list[dict[str, Any]]]) -> str | None:
    """Why the model must see the whole picture, as the end of a sentence; None: it need not."""
    if reader.unit is None:
        return "this kind of model places what it sees in the whole picture"
    if patches := find_patches(options, conds):
        return f"{patches}, and may need all of it"
    return None
