"""A look at the picture before a strong edit: what the model makes of it where it still shows.

Where a sampling begins with much noise, its first steps do not see the picture, and its later ones see the edit. So
the picture is first noised to the level at which masks are best, and read as in a step that is not taken. The mask is
that of the looks, and does not depend on the strength (docs/method.md, 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .noise import NoiseLevel
from .session import EditSessions

TOO_NOISY = 2.0
"""Noise to signal of the first step above which the picture is looked at first."""

LEVEL = 1.2
"""Noise to signal of a look: where Stable Diffusion begins at a strength of about 0.4."""

LOOKS = 2
"""How often, each time with other noise."""


def look_at_picture(sessions: Sequence[EditSessions], first: NoiseLevel, look: Callable[[int], None]) -> bool:
    """Let sessions whose sampling begins at the level `first` look at their pictures; false where none needs to.

    `look` noises the pictures to `LEVEL` with the noise of a seed, and shows the sessions what the model makes of
    them (`EditSessions.look`). Costs `LOOKS` steps. Waits for the device.
    """
    found = any(session.is_found_by_change for edits in sessions for session in edits.sessions)
    if not found or bool(first.ratio <= TOO_NOISY):
        return False
    for seed in range(LOOKS):
        look(seed)
    return True
