"""The methods that are compared. All edit with the same model, prompts, seeds and steps; only the masks differ.

`paper`, `default`: the instant masks of our presets, which find their word themselves.

`DiffEdit` (Couairon et al. 2022): the difference between the noise predicted for what the picture
shows and for what it is to show, mean of 10 draws, found before the sampling.

`LEdits++` (Brack et al. 2024): in every step the places where both the attention of the target's
words (their M1) and the guidance (their M2) are among the strongest quarter. Their default, the
strongest tenth, is smaller than most of what is to change here. They invert the picture; here it is
noised, as for the others.

`DAAM` (Tang et al. 2023): the attention of the target's words, mean over the steps, stretched to 0..1,
enlarged bicubically and cut at 0.4, the threshold of their segmentations. They read every layer; here
the layers are those that all methods read.

`SDEdit` (Meng et al. 2022): no mask. Everything may change, and there is nothing to finish.

`true mask`: the exact one, and none where there is none. What then fails is the model's painting.

LEdits++ and DAAM decide at the size of the latent, where the sampling needs their masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from instdiff_core.arrays import Mask
from instdiff_core.evidence import FIRST_WORD, Evidence, Predictions
from instdiff_core.maps import rescale_to_unit, resize
from instdiff_core.noise import NoiseLevel
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.pipeline.editing import NewSession
from instdiff_core.pipeline.own_mask import OwnMaskSession
from instdiff_core.refine import InstantMask
from instdiff_core.session import MaskSession
from instdiff_core.tokens import PromptWords

from .common import device
from .engines import Approach, Batch
from .scenes import Scene

QUANTILE = 0.75
DAAM_CUT = 0.4

Method = Callable[[Batch], Approach]


class _Decided(MaskSession):
    """A method of its own: `decide` gives the mask of a step from its evidence, and how strong the guidance was.

    The guidance ``[1, h, w]`` is how far apart the predictions with and without prompt are.
    """

    guidance: Tensor

    def __init__(self, decide: Callable[[Evidence, Tensor], Tensor], *session: Any) -> None:
        super().__init__(*session)
        self.decide = decide

    def step(self, level: NoiseLevel, predictions: Predictions, foreign: Tensor | None = None) -> Tensor | None:
        assert predictions.without_prompt is not None
        self.guidance = (predictions.with_prompt - predictions.without_prompt).float().abs().sum(1)
        return super().step(level, predictions, foreign)

    @property
    def is_found_by_change(self) -> bool:
        return False

    def mask_from(self, evidence: Evidence, settings: MaskSettings) -> Tensor:
        return self.decide(evidence, self.guidance)

    def final(self, size: tuple[int, int], settings: MaskSettings, picture: Tensor) -> InstantMask:
        assert self.mask is not None
        binary = functional.interpolate(self.mask[:, None].float().cpu(), size, mode="bilinear")[:, 0] > 0.5
        return replace(super().final(size, settings, picture), soft=binary.float(), binary=binary)


def _fixed(masks: Sequence[Mask], size: tuple[int, int]) -> NewSession:
    """Makes the sessions of pictures with these masks, for latents of this size."""
    return lambda number, *session: OwnMaskSession(masks[number], size, device(), *session)


def _decided(batch: Batch, decide: Callable[[list[int], Evidence, Tensor], Tensor]) -> NewSession:
    """Makes the sessions of pictures whose masks are decided on the numbers of the target's words, too."""

    def new_session(number: int, words: PromptWords, *session: Any) -> MaskSession:
        return _Decided(partial(decide, word_numbers(words, batch.scenes[number])), words, *session)

    return new_session


def _diffedit(batch: Batch) -> Approach:
    return Approach(new_session=_fixed(batch.difference_masks(), batch.latent_size))


def _ledits(batch: Batch) -> Approach:
    def decide(numbers: list[int], evidence: Evidence, guidance: Tensor) -> Tensor:
        attended = _strongest(_smoothed(_words_map(evidence, numbers)))
        enlarged = functional.interpolate(attended[:, None].float(), guidance.shape[-2:])[:, 0] > 0
        return enlarged & _strongest(guidance)

    return Approach(new_session=_decided(batch, decide))


def _daam(batch: Batch) -> Approach:
    def decide(numbers: list[int], evidence: Evidence, guidance: Tensor) -> Tensor:
        size = (guidance.shape[-2], guidance.shape[-1])
        return rescale_to_unit(resize(_words_map(evidence, numbers), size, "bicubic")) >= DAAM_CUT

    return Approach(new_session=_decided(batch, decide))


def _sdedit(batch: Batch) -> Approach:
    masks = [np.ones(scene.picture.shape[:2], bool) for scene in batch.scenes]
    return Approach(new_session=_fixed(masks, batch.latent_size), finishes=False)


def _true_mask(batch: Batch) -> Approach:
    masks = [np.zeros(scene.picture.shape[:2], bool) if scene.truth is None else scene.truth for scene in batch.scenes]
    return Approach(new_session=_fixed(masks, batch.latent_size))


METHODS: dict[str, Method] = {
    "default": lambda batch: Approach(PRESETS["default"]),
    "paper": lambda batch: Approach(PRESETS["paper"]),
    "DiffEdit": _diffedit,
    "LEdits++": _ledits,
    "DAAM": _daam,
    "SDEdit": _sdedit,
    "true mask": _true_mask,
}


def word_numbers(words: PromptWords, scene: Scene) -> list[int]:
    """Which words of the edit prompt are the scene's; all where none is."""
    texts = [text.casefold() for text in words.texts]
    return [number for number, text in enumerate(texts) if text in scene.words] or list(range(len(texts)))


def _words_map(evidence: Evidence, numbers: list[int]) -> Tensor:
    """The mean map ``[1, h, w]`` of the numbered words."""
    return evidence.maps[:, FIRST_WORD:][:, numbers].mean(1)


def _strongest(maps: Tensor) -> Tensor:
    """The cells of maps ``[B, h, w]`` that reach the map's quantile."""
    return maps >= maps.flatten(1).quantile(QUANTILE, dim=1)[:, None, None]


def _smoothed(maps: Tensor) -> Tensor:
    """Maps ``[B, h, w]`` under the 3x3 Gaussian of LEdits++."""
    taps = torch.exp(-torch.arange(-1.0, 2.0, device=maps.device).square())
    kernel = torch.outer(taps, taps) / taps.sum().square()
    return functional.conv2d(functional.pad(maps[:, None], (1, 1, 1, 1), mode="reflect"), kernel[None, None])[:, 0]
