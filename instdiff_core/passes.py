"""The passes of a finish: each paints the area again, from less noise than the one before.

Almost pure noise does not show what surrounds the area, so that a thing may be begun where it has no room, and then
vanish. Painted again from what came of it, with the surroundings as they are, it is decided anew. Resampling
(Lugmayr et al. 2022, RePaint) and restart sampling (Xu et al. 2023) go back to noise in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

FALL = 2 / 9
"""By how much less noise than the first pass the last one begins with: 0.9, 0.83, 0.77, 0.7 (docs/method.md, 11)."""

SHORTEST = 4
"""Steps of a pass at least: in fewer it paints nothing that the next could mend."""

MOST_PASSES = 16


@dataclass(frozen=True)
class Pass:
    """Sampling steps, and the strength that they begin at."""

    steps: int
    strength: float


def plan_passes(passes: int, steps: int, strength: float) -> list[Pass]:
    """`steps` (1 and above) on `passes` (1 to `MOST_PASSES`), of which the first begins at `strength` (0 to 1).

    Each takes as many; what is left over the last takes. There are fewer where they would be shorter than `SHORTEST`.
    """
    passes = max(1, min(passes, steps // SHORTEST))
    length, left_over = divmod(steps, passes)
    lengths = [length] * (passes - 1) + [length + left_over]
    falls = [FALL * number / max(1, passes - 1) for number in range(passes)]
    return [Pass(length, strength * (1 - fall)) for length, fall in zip(lengths, falls, strict=True)]


def next_seed(seed: int, number: int) -> int:
    """The seed of the noise of a pass, for that of the first; both of 64 bits, as KSampler's."""
    return (seed + number) % (1 << 64)
