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

LEdits++ and DAAM decide at the size of the latent, where the sampling needs their masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from instdiff_core.evidence import FIRST_WORD, Evidence
from instdiff_core.maps import rescale_to_unit, resize
from instdiff_core.options import PRESETS, DiffEditOptions, FinishOptions, MaskSettings
from instdiff_core.pipeline import EditModel
from instdiff_core.pipeline.diffedit import find_masks
from instdiff_core.refine import InstantMask
from instdiff_core.session import MaskSession
from instdiff_core.tokens import prompt_words

from .scenes import Scene

QUANTILE = 0.75
DAAM_CUT = 0.4

Method = Callable[[EditModel, Sequence[Scene], Sequence[int], dict[str, Any]], AbstractContextManager[dict[str, Any]]]
"""Scenes, their seeds and the arguments of `edit_batch` that all methods share, to the method's own arguments."""


class _Fixed(MaskSession):
    """A mask of the picture's size that was there before the sampling."""

    def __init__(self, given: NDArray[np.bool_], size: tuple[int, int], device: torch.device, *session: Any) -> None:
        super().__init__(*session)
        self.given = torch.tensor(given)[None]
        share = functional.adaptive_avg_pool2d(self.given.float(), size)
        self.fix_mask((share > 0.5).to(device))

    def final(self, size: tuple[int, int], settings: MaskSettings, picture: Tensor) -> InstantMask:
        return replace(super().final(size, settings, picture), soft=self.given.float(), binary=self.given)


class _Decided(MaskSession):
    """A method of its own: `mask_of` gives the mask of a step from the picture's number and its evidence."""

    def __init__(self, mask_of: Callable[[int, Evidence], Tensor], number: int, *session: Any) -> None:
        super().__init__(*session)
        self.number, self.mask_of = number, mask_of

    def mask_from(self, evidence: Evidence, settings: MaskSettings) -> Tensor:
        return self.mask_of(self.number, evidence)

    def final(self, size: tuple[int, int], settings: MaskSettings, picture: Tensor) -> InstantMask:
        assert self.mask is not None
        binary = functional.interpolate(self.mask[:, None].float().cpu(), size, mode="bilinear")[:, 0] > 0.5
        return replace(super().final(size, settings, picture), soft=binary.float(), binary=binary)


def _fixed(model: EditModel, masks: Sequence[NDArray[np.bool_]]) -> Callable[..., MaskSession]:
    """Makes the sessions of pictures with these masks."""
    height, width = model.working_size(*masks[0].shape)
    size = (height // model.scale, width // model.scale)
    return lambda number, *session: _Fixed(masks[number], size, model.device, *session)


def _preset(name: str) -> Method:
    @contextmanager
    def method(model: EditModel, scenes: Sequence[Scene], seeds: Sequence[int], shared: dict[str, Any]) -> Any:
        yield {"settings": PRESETS[name]}

    return method


@contextmanager
def _diffedit(
    model: EditModel, scenes: Sequence[Scene], seeds: Sequence[int], shared: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    masks = find_masks(
        model,
        [scene.picture for scene in scenes],
        [scene.source_prompt for scene in scenes],
        [scene.prompt for scene in scenes],
        seeds=seeds,
        options=DiffEditOptions(strength=shared["sampling"].strength),
    )
    yield {"new_session": _fixed(model, masks)}


@contextmanager
def _ledits(
    model: EditModel, scenes: Sequence[Scene], seeds: Sequence[int], shared: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    words = [word_numbers(model, scene) for scene in scenes]
    guidance = torch.empty(0)

    def note(module: Any, inputs: Any, output: Any) -> None:
        nonlocal guidance
        without, wanted = output[0].float().chunk(2)
        guidance = (wanted - without).abs().sum(1)

    def mask_of(number: int, evidence: Evidence) -> Tensor:
        attended = _smoothed(_words_map(evidence, words[number]))
        size = (evidence.image_latent.shape[-2], evidence.image_latent.shape[-1])
        attended = functional.interpolate(_strongest(attended)[:, None].float(), size)[:, 0] > 0
        return attended & _strongest(guidance[number : number + 1])

    hook = model.unet.register_forward_hook(note)
    try:
        yield {"new_session": partial(_Decided, mask_of)}
    finally:
        hook.remove()


@contextmanager
def _daam(
    model: EditModel, scenes: Sequence[Scene], seeds: Sequence[int], shared: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    words = [word_numbers(model, scene) for scene in scenes]

    def mask_of(number: int, evidence: Evidence) -> Tensor:
        size = (evidence.image_latent.shape[-2], evidence.image_latent.shape[-1])
        return rescale_to_unit(resize(_words_map(evidence, words[number]), size, "bicubic")) >= DAAM_CUT

    yield {"new_session": partial(_Decided, mask_of)}


@contextmanager
def _sdedit(
    model: EditModel, scenes: Sequence[Scene], seeds: Sequence[int], shared: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    masks = [np.ones(scene.picture.shape[:2], bool) for scene in scenes]
    yield {"new_session": _fixed(model, masks), "finishing": FinishOptions(strength=0)}


METHODS: dict[str, Method] = {
    "default": _preset("default"),
    "paper": _preset("paper"),
    "DiffEdit": _diffedit,
    "LEdits++": _ledits,
    "DAAM": _daam,
    "SDEdit": _sdedit,
}


def word_numbers(model: EditModel, scene: Scene) -> list[int]:
    """Which words of the edit prompt are the scene's; all where none is."""
    texts = [text.casefold() for text in prompt_words([model.tokenizer(scene.prompt).input_ids], model.tokenizer).texts]
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
