"""What came of guarding an edit, as figures and in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..options import Refused


@dataclass(frozen=True)
class GuardReport:
    """What was found out about an edit.

    `shift` is in pixels of the original, right and down; `zoom` 1 where nothing grew; `rotation` in degrees,
    clockwise. `agreement` (of their detail), `found` (what of the picture was edited) and `kept` (what of it is
    the original's, bit for bit) are parts of 1. `colour_change`, which the match of colours undoes, and
    `residual`, by how much a tenth of what is not edited still differs, are in CIELAB (1 is hardly seen); 0
    where the edit was not laid over. `refusal` says why nothing was put back, and `given` what comes out
    then. `swapped`: the pictures' sizes look as if they were the other way round.
    """

    shift: tuple[float, float]
    zoom: float
    rotation: float
    agreement: float
    colour_change: float
    residual: float
    found: float
    kept: float
    refusal: str | None
    given: Refused
    swapped: bool

    def facts(self) -> dict[str, Any]:
        """The figures for JSON, which has no number for what is none."""
        facts = asdict(self)
        return facts | {name: None for name, value in facts.items() if isinstance(value, float) and math.isnan(value)}

    def describe(self) -> str:
        """The same in plain words, in lines."""
        lines = []
        if self.refusal:
            lines.append(f"refused: {self.refusal}. What comes out is the {self.given}; a mask of the edit may help")
        if self.swapped:
            lines.append("the original seems to be connected to edited: it is larger, and its size is no editor's")
        if not self.refusal or self.residual:
            lines.append(f"the edit was {self._moved()}; {self.agreement:.0%} of the detail agrees")
            lines.append(f"its colours were {self.colour_change:.1f} off (CIELAB; 1 is hardly seen)")
        if not self.refusal and self.found:
            lines.append(f"edited: {self.found:.1%} of the picture; {self.kept:.1%} is the original, bit for bit")
        elif not self.refusal:
            lines.append(
                "nothing edited was found, or the mask is empty: the original comes out. Try a higher sensitivity, "
                "or a mask of the edit"
            )
        return "\n".join(lines)

    def _moved(self) -> str:
        (across, down), zoom, turned = self.shift, round(self.zoom - 1, 3), round(self.rotation, 1)
        parts = [
            f"{abs(across):.1f} pixels to the {'right' if across >= 0 else 'left'} and "
            f"{abs(down):.1f} {'down' if down >= 0 else 'up'}"
        ]
        if zoom:
            parts.append(f"{abs(zoom):.1%} {'larger' if zoom > 0 else 'smaller'}")
        if turned:
            parts.append(f"turned {'clockwise' if turned > 0 else 'counter-clockwise'} by {abs(turned)} degrees")
        return ", ".join(parts)
