"""What the mask editor is told when it asks for a mask: a soft mask to cut by itself, and what it rests on."""

from __future__ import annotations

import json
from itertools import accumulate

import torch
from safetensors.torch import save
from torch import Tensor

from .edits import join_prompts
from .refinery import EditRefineries, Refinery
from .tokens import find_nearest_word, find_words

LEVELS = [level / 200 for level in range(1, 201)]
"""Grey levels of a soft mask on its way: among them are all thresholds that the editor's slider has."""


def answer_question(
    refineries: EditRefineries, words: tuple[str, ...], steps: int, number: int, edit: int = 0
) -> bytes:
    """The mask of picture `number` by these words (none: those of the settings), after `steps` (0: all), as a file.

    `edit` is the number of an edit of the run, from 1 on; 0: all of them, whose masks make one. Words that are in no
    prompt of theirs are told, and else ignored. The file is a safetensors file whose tensors are uint8: `soft`
    ``[edits, H, W]``, how many of the `levels` each pixel of an edit's soft mask reaches; `word_maps`
    ``[words, h, w]``, where each word acts, 0 to 255; where there is a noise mask, `noise_mask` ``[edits, H, W]``,
    1 where the mask may be; and for one of several edits `own` ``[H, W]``, 0 where a pixel belongs to another.
    The rest is JSON, in the metadata `answer`; web/answer.js says what each entry is.

    Raises ``IndexError`` when there is no such picture, or edit.
    """
    count = len(refineries.edits)
    if not 0 <= edit <= count:
        raise IndexError(f"there is no edit {edit}: the record has {count}, from 1 on")
    asked = refineries.edits[edit - 1 : edit] if edit else refineries.edits
    batch, last = asked[0].record.maps.shape[1], len(asked[0].record.sigmas)
    if not 0 <= number < batch:
        raise IndexError(f"there is no picture {number}: the record has {batch}, from 0 on")
    steps = min(steps or last, last)
    prompts = [refinery.record.words for refinery in asked]
    starts = list(accumulate((len(prompt.words) for prompt in prompts[:-1]), initial=0))
    every_word = join_prompts(prompts)
    target = tuple(dict.fromkeys(name for refinery in asked for name in refinery.settings.target))
    numbers = {
        name: [start + word for start, prompt in zip(starts, prompts, strict=True) for word in find_words(prompt, name)]
        for name in (*every_word.texts, *words, *target)
    }
    unknown = next((name for name in words or target if not numbers[name]), None)
    masks = [refinery.refine(_names_for(refinery, words), steps, number) for refinery in asked]
    levels = sorted({*LEVELS, *(refinery.settings.threshold for refinery in asked)} - {0})
    tensors = {
        "soft": torch.stack([count_levels(mask.soft[0], levels) for mask in masks]),
        "word_maps": torch.cat([(refinery.word_maps(steps, number) * 255).round().byte() for refinery in asked]),
    }
    noise_masks = [refinery.noise_mask(number) for refinery in asked]
    if any(noise_mask is not None for noise_mask in noise_masks):
        everywhere = torch.ones_like(masks[0].binary[0])
        tensors["noise_mask"] = torch.stack([everywhere if each is None else each for each in noise_masks]).byte()
    if edit and count > 1:
        tensors["own"] = refineries.find_own_pixels(edit - 1, masks[0], steps, number).byte()
    answer = {
        "edits": [" ".join(each.record.words.texts) for each in refineries.edits],
        "words": every_word.texts,
        "numbers": numbers,
        "nearest": None if unknown is None else find_nearest_word(every_word, unknown),
        "target": target,
        "thresholds": [refinery.settings.threshold for refinery in asked],
        "min_areas": [refinery.settings.min_area for refinery in asked],
        "levels": levels,
        "steps": last,
        "batch": batch,
        "indices": [start + int(mask.roles.index[0]) for start, mask in zip(starts, masks, strict=True)],
        "weights": [weight for mask in masks for weight in mask.roles.weights[0].int().tolist()],
        "fits": all(bool(mask.fits[0]) for mask in masks),
    }
    return save(tensors, {"answer": json.dumps(answer)})


def _names_for(refinery: Refinery, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that make an edit's mask: those of `words` that are in its prompt, else of the settings."""
    known, of_settings = (
        tuple(name for name in names if find_words(refinery.record.words, name))
        for names in (words, refinery.settings.target)
    )
    return known or of_settings


def count_levels(soft: Tensor, levels: list[float]) -> Tensor:
    """How many of the levels each pixel of a soft mask ``[H, W]`` in 0..1 reaches, uint8.

    `levels` are `LEVELS`, and at most a few more.
    """
    regular = torch.tensor([0.0, *LEVELS])
    # one too many at most, which one comparison finds: a pixel that is exactly on a level must reach it
    reached = (soft * len(LEVELS) + 1e-4).int()
    reached -= (regular.index_select(0, reached.flatten()).view_as(soft) > soft).int()
    for level in set(levels).difference(LEVELS):
        reached += (soft >= level).int()
    return reached.byte()
