"""A look at the picture before the sampling: what the model makes of it where it still shows.

How much of a mask depends on the noise of one sampling is more than what most steps bring. So before the first step
the picture is noised to its level with other noise, and read as in a step that is not taken: the look counts as much
as the first step. Where a sampling begins with so much noise that its first steps do not see the picture, and its
later ones see the edit, the picture is looked at with less, and the looks count alone: the mask does not depend on the
strength (docs/method.md, 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .evidence import TOO_NOISY
from .noise import NoiseLevel
from .session import EditSessions

LEVEL = 1.2
"""Noise to signal of looks that count alone: where Stable Diffusion begins at a strength of about 0.4."""

LOOKS = 2
"""How often the picture is looked at then, each time with other noise."""

Look = Callable[[float, int], None]
"""Noises the pictures, so that there is so much noise to signal, with the noise of a seed, and shows the sessions what
the model makes of them (`EditSessions.look`)."""


def look_at_picture(sessions: Sequence[EditSessions], first: NoiseLevel, look: Look) -> bool:
    """Let sessions whose sampling begins at the level `first` look at their pictures; false where none needs to.

    Costs a step, or `LOOKS` of them. Waits for the device.
    """
    if not any(session.is_found_by_change for edits in sessions for session in edits.sessions):
        return False
    ratio = float(first.ratio)
    if ratio <= TOO_NOISY:
        look(ratio, 0)
        return True
    for seed in range(LOOKS):
        look(LEVEL, seed)
    return True
