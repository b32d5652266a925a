"""A look at the picture before the sampling: what the model makes of it where it still shows.

How much of a mask depends on the noise of one sampling is more than what most steps bring. So before the first step
the picture is noised to its level with other noise, and read as in a step that is not taken: the look counts as much
as the first step. Where a sampling begins with so much noise that its first steps do not see the picture, and its
later ones see the edit, the picture is looked at with less, and the looks count alone: the mask does not depend on the
strength (docs/method.md, 3.1). After a sampling that leaves it in doubt whether the prompt contradicts the picture, it
is looked at again (docs/method.md, 5.2).

A picture that is larger than what the model was made for it does not know well enough to tell what the prompt
contradicts: it is looked at in the size that the model was made for, and again the looks count alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from .evidence import TOO_NOISY
from .noise import NoiseLevel
from .region import working_size
from .session import EditSessions

LEVEL = 1.2
"""Noise to signal of looks that count alone: where Stable Diffusion begins at a strength of about 0.4."""

LOOKS = 2
"""How often the picture is looked at then, each time with other noise."""

LOOKS_IN_DOUBT = 4
"""How often in all where the mask is in doubt, and at once where the picture is looked at smaller than it is."""

LARGE = 1.5
"""Above so many times the pixels that the model was made for, a picture is looked at smaller than it is."""

Look = Callable[[float, int], None]
"""Noises the pictures, so that there is so much noise to signal, with the noise of a seed, and shows the sessions what
the model makes of them (`EditSessions.look`)."""


def find_look_size(size: tuple[int, int], pixels: int, unit: int) -> tuple[int, int]:
    """The size in which latents of a `size` ``(height, width)`` are looked at, by a model made for so many `pixels`.

    All in latent pixels. A size that is smaller is one of multiples of `unit`.
    """
    return working_size(*size, pixels, unit) if size[0] * size[1] > LARGE * pixels else size


def scale_latents(image_latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents ``[B, C, H, W]`` at the size ``(height, width)`` in which they are looked at; as they are where it is
    theirs."""
    if tuple(image_latents.shape[-2:]) == size:
        return image_latents
    return functional.interpolate(image_latents.float(), size, mode="bicubic", antialias=True).to(image_latents)


def look_at_picture(sessions: Sequence[EditSessions], first: NoiseLevel, look: Look, in_full: bool) -> bool:
    """Let sessions whose sampling begins at the level `first` look at their pictures; false where none needs to.

    `in_full`: whether a look sees pictures in the size in which they are sampled. Costs a step, or `LOOKS` of them;
    where they are seen smaller `LOOKS_IN_DOUBT`, each of which costs less than half of a step. Waits for the device.
    """
    if not any(session.is_found_by_change for edits in sessions for session in edits.sessions):
        return False
    ratio, looks = _plan(first, in_full)
    for seed in range(looks):
        look(ratio, seed)
    return True


def look_again(sessions: Sequence[EditSessions], first: NoiseLevel, look: Look, in_full: bool) -> None:
    """Look on after a sampling that was looked at from `first`, where it left a mask in doubt.

    Costs as many steps as there are looks. Waits for the device.
    """
    if not any(session.is_in_doubt for edits in sessions for session in edits.sessions):
        return
    ratio, looks = _plan(first, in_full)
    for seed in range(looks, LOOKS_IN_DOUBT):
        look(ratio, seed)


def _plan(first: NoiseLevel, in_full: bool) -> tuple[float, int]:
    """How much noise to signal looks have, and how many there are before the first step."""
    ratio = float(first.ratio)
    if not in_full:
        return LEVEL, LOOKS_IN_DOUBT
    return (ratio, 1) if ratio <= TOO_NOISY else (LEVEL, LOOKS)
