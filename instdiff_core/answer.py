"""What the mask editor is told when it asks for a mask: a soft mask to cut by itself, and what it rests on."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save
from torch import Tensor

from .refinery import EditRefineries
from .tokens import find_nearest_word, find_words

LEVELS = [level / 200 for level in range(1, 201)]
"""Grey levels of a soft mask on its way: among them are all thresholds that the editor's slider has."""


def answer_question(
    refineries: EditRefineries, words: tuple[str, ...], steps: int, number: int, edit: int = 1
) -> bytes:
    """The mask of picture `number` by these words (none: those of the settings), after `steps` (0: all), as a file.

    `edit` is the number of an edit of the run, from 1 on. Words that are not in its prompt are told, and else
    ignored. The file is a safetensors file whose tensors are uint8: `soft` ``[H, W]``, how many of the `levels`
    each pixel of the soft mask reaches; `word_maps` ``[words, h, w]``, where each word acts, 0 to 255; and, where
    the latent has a noise mask or the run had several edits, `noise_mask` ``[H, W]``, 1 where the mask may be.
    The rest is JSON, in the metadata `answer`; web/answer.js says what each entry is.

    Raises ``IndexError`` when there is no such picture, or edit.
    """
    count = len(refineries.edits)
    if not 1 <= edit <= count:
        raise IndexError(f"there is no edit {edit}: the record has {count}, from 1 on")
    refinery = refineries.edits[edit - 1]
    record, settings = refinery.record, refinery.settings
    batch, last = record.maps.shape[1], len(record.sigmas)
    if not 0 <= number < batch:
        raise IndexError(f"there is no picture {number}: the record has {batch}, from 0 on")
    steps = min(steps or last, last)
    names = words or settings.target
    numbers = {name: find_words(record.words, name) for name in (*record.words.texts, *names, *settings.target)}
    unknown = next((name for name in names if not numbers[name]), None)
    mask = refinery.refine(tuple(name for name in names if numbers[name]), steps, number)
    levels = sorted({*LEVELS, settings.threshold} - {0})
    tensors = {
        "soft": count_levels(mask.soft[0], levels),
        "word_maps": (refinery.word_maps(steps, number) * 255).round().byte(),
    }
    allowed = refineries.find_allowed(edit - 1, mask, steps, number)
    if allowed is not None:
        tensors["noise_mask"] = allowed.byte()
    answer = {
        "edits": [" ".join(each.record.words.texts) for each in refineries.edits],
        "words": record.words.texts,
        "numbers": numbers,
        "nearest": None if unknown is None else find_nearest_word(record.words, unknown),
        "target": settings.target,
        "threshold": settings.threshold,
        "min_area": settings.min_area,
        "levels": levels,
        "steps": last,
        "batch": batch,
        "index": int(mask.roles.index[0]),
        "weights": mask.roles.weights[0].int().tolist(),
        "fits": bool(mask.fits[0]),
    }
    return save(tensors, {"answer": json.dumps(answer)})


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
