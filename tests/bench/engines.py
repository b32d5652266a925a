"""What the mask benchmark asks of a model, in whatever program it runs.

An engine is a model that is loaded. It prepares a batch of scenes (pictures encoded, prompts read), which then
is edited by every method: a method is only another way to a mask, an `Approach`, and knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch.nn import Module

from instdiff_core.arrays import Mask
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.pipeline import Edit
from instdiff_core.pipeline.editing import NewSession
from instdiff_core.session import MaskSession
from instdiff_core.tokens import PromptWords

from .scenes import Scene


def instant_session(number: int, words: PromptWords, settings: MaskSettings, *more: object) -> MaskSession:
    """The session of an instant mask. What comes behind the settings is the engine's own."""
    return MaskSession(words, settings, *more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Approach:
    """How a method edits: the settings of its mask, the sessions that make it, and whether the edit is finished."""

    settings: MaskSettings = PRESETS["default"]
    new_session: NewSession = instant_session
    finishes: bool = True


class Batch(Protocol):
    """Scenes of one size that a model is ready to edit."""

    scenes: Sequence[Scene]

    @property
    def latent_size(self) -> tuple[int, int]:
        """``(height, width)`` of the latents that masks are made for."""
        ...

    def edit(self, approach: Approach) -> list[Edit]:
        """Every scene's edit."""
        ...

    def difference_masks(self) -> list[Mask]:
        """DiffEdit's mask of every scene."""
        ...


class Engine(Protocol):
    """A model that is loaded. `networks` are called once or more in every step, with their latents first."""

    @property
    def networks(self) -> list[Module]: ...

    def prepare(self, scenes: Sequence[Scene], seeds: Sequence[int]) -> Batch:
        """Scenes of one size with the seeds of their noise, ready to be edited."""
        ...
