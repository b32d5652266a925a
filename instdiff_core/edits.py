"""Several edits of one picture: which settings are whose, and which edit a pixel belongs to.

Where the masks of edits overlap, a pixel belongs to the edit whose soft mask is larger there, of equal ones to the
first (docs/method.md, 7.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .evidence import AttentionRecord
from .options import MaskSettings
from .refine import InstantMask, find_target_words, limit_mask
from .tokens import PromptWords, find_words


def share_settings(prompts: Sequence[PromptWords], settings: MaskSettings) -> list[MaskSettings]:
    """Settings that several edits have in common, for each of them: the words that they name count where they are.

    Raises ``ValueError`` for a word that is in none of the prompts.
    """
    if len(prompts) == 1:
        return [settings]
    find_target_words(join_prompts(prompts), settings.target)
    return [
        replace(settings, target=tuple(name for name in settings.target if find_words(prompt, name)))
        for prompt in prompts
    ]


def join_prompts(prompts: Sequence[PromptWords]) -> PromptWords:
    """The words of several prompts, one after the other, without start and end: names are looked for in them."""
    words = tuple(word for prompt in prompts for word in prompt.words)
    return PromptWords(words, (), (), max(prompt.length for prompt in prompts))


def choose_settings(
    prompts: Sequence[PromptWords], own: Sequence[MaskSettings | None], settings: MaskSettings
) -> list[MaskSettings]:
    """The settings of each edit: its own, else `settings`, as `share_settings` shares them."""
    common = share_settings(prompts, settings)
    return [of_edit or shared for of_edit, shared in zip(own, common, strict=True)]


def settings_of_edits(record: AttentionRecord, settings: MaskSettings) -> list[MaskSettings]:
    """`choose_settings` for the edits of a run."""
    edits = record.edits
    return choose_settings([edit.words for edit in edits], [edit.settings for edit in edits], settings)


def select_edits(record: AttentionRecord, number: int | None) -> list[int]:
    """The indices of the edits that a number means: 0 and None all of them, from 1 on a single one.

    Raises ``ValueError`` for an edit that there is not.
    """
    count = len(record.edits)
    if number and number > count:
        raise ValueError(f"there is no edit {number}: the sampling had {count}; 0 takes all of them")
    return [number - 1] if number else list(range(count))


def find_others_pixels(soft: Sequence[Tensor], binary: Sequence[Tensor], number: int) -> Tensor:
    """Where a pixel belongs to another edit than the numbered one, ``[B, H, W]`` bool, whatever that takes itself.

    `soft` float in 0..1 and `binary` bool are the masks of all edits ``[B, H, W]``, as they were found.
    """
    others = torch.zeros_like(binary[number])
    for other, taken in enumerate(binary):
        if other != number:
            stronger = soft[other] >= soft[number] if other < number else soft[other] > soft[number]
            others |= taken & stronger
    return others


def part_masks(masks: Sequence[InstantMask]) -> list[InstantMask]:
    """The masks of several edits, of one size, without their overlap. A single one is returned as it is."""
    if len(masks) == 1:
        return list(masks)
    soft, binary = [mask.soft for mask in masks], [mask.binary for mask in masks]
    return [limit_mask(~find_others_pixels(soft, binary, number), mask) for number, mask in enumerate(masks)]


def join_masks(masks: Sequence[InstantMask]) -> InstantMask:
    """The masks of several edits, of one size, as one: of the least `confidence`, and with the first one's words.

    A single one is returned as it is.
    """
    if len(masks) == 1:
        return masks[0]
    return replace(
        masks[0],
        soft=torch.stack([mask.soft for mask in masks]).amax(0),
        binary=torch.stack([mask.binary for mask in masks]).any(0),
        confidence=torch.stack([mask.confidence for mask in masks]).amin(0),
    )
