"""The edits of opened jobs: the part of a batch that needs the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..options import SamplingOptions
from ..pipeline import Edit, EditModel, edit_batch, edit_photo, load_mini, load_model
from ..pipeline.own_mask import check_own_mask, own_masks
from ..pipeline.photo import is_large
from ..refine import find_target_words
from .jobs import Job
from .work import BatchOptions, Edited, Opened, Result, refusal


class Editor:
    """Holds the model and edits opened jobs, as many as there are; results pass as they are.

    Raises ``ValueError`` for a model that cannot be read.
    """

    def __init__(self, options: BatchOptions) -> None:
        torch.set_num_threads(options.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: EditModel = (
            load_model(options.model, device, inpainting=options.inpainting) if options.model else load_mini(device)
        )
        self._options = options

    def __call__(self, items: Sequence[Opened | Result]) -> list[Edited | Result]:
        edited: list[Edited | Result] = [item for item in items if isinstance(item, Result)]
        buckets: dict[Any, list[Opened]] = defaultdict(list)
        for item in items:
            if isinstance(item, Opened):
                try:
                    self._check(item)
                except (ValueError, TypeError) as error:
                    edited.append(refusal(item.job, error))
                else:
                    buckets[item.picture.shape, item.job.settings].append(item)
        size = self._options.batch_size
        for opened in buckets.values():
            for first in range(0, len(opened), size):
                edited += self._edit(opened[first : first + size])
        return edited

    def _check(self, item: Opened) -> None:
        """Raises ``ValueError`` for a mask that does not fit, and for a prompt that the model cannot read.

        In a batch they would stop the others.
        """
        if item.mask is not None:
            check_own_mask(item.mask, item.picture)
        find_target_words(self._model.words(item.job.prompt), item.job.words)

    def _edit(self, opened: list[Opened]) -> list[Edited | Result]:
        """Edit a batch of one bucket; where that fails, one by one, so that none pays for another."""
        large = is_large(self._model, *opened[0].picture.shape[:2])
        if large and len(opened) > 1:
            return [edited for item in opened for edited in self._edit([item])]
        try:
            edits = [self._edit_large(*opened)] if large else self._edit_side_by_side(opened)
        except Exception as error:  # whatever it is, it is this job's, and the others go on
            if len(opened) == 1:
                return [refusal(opened[0].job, error)]
            return [edited for item in opened for edited in self._edit([item])]
        return [_collected(*pair) for pair in zip(opened, edits, strict=True)]

    def _edit_large(self, item: Opened) -> Edit:
        job = item.job
        return edit_photo(self._model, item.picture, job.prompt, seed=job.seed, mask=item.mask, **self._arguments(job))

    def _edit_side_by_side(self, opened: Sequence[Opened]) -> list[Edit]:
        # A batch always has the same size: kernels are chosen by it, and round in ways of their own.
        filled = [*opened, *[opened[-1]] * (self._options.batch_size - len(opened))]
        jobs = [item.job for item in filled]
        edits = edit_batch(
            self._model,
            [item.picture for item in filled],
            [job.prompt for job in jobs],
            seeds=[job.seed for job in jobs],
            new_session=own_masks(self._model, [item.mask for item in filled]),
            **self._arguments(jobs[0]),
        )
        share = len(filled) / len(opened)
        return [
            replace(edit, timings={name: seconds * share for name, seconds in edit.timings.items()})
            for edit in edits[: len(opened)]
        ]

    def _arguments(self, job: Job) -> dict[str, Any]:
        options = self._options
        return {
            "settings": options.settings(job),
            "sampling": SamplingOptions(options.steps, options.cfg, job.strength),
            "finishing": replace(self._model.finishing, steps=options.steps, cfg=options.cfg),
        }


def _collected(opened: Opened, edit: Edit) -> Edited:
    report = edit.facts
    timings = report.pop("timings")
    if opened.mask is not None:  # these say how the mask was found
        report |= dict.fromkeys(("index_word", "fits", "confidence"))
    return Edited(opened, edit.picture, edit.mask.binary[0].numpy(), report, timings)
