"""What happens to one job: its picture is opened, edited together with others of its kind, and saved."""

from __future__ import annotations

import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files import picture_size, read_picture, save_edit
from ..options import PRESETS, FinishOptions, MaskSettings, SamplingOptions
from ..pipeline import Edit, EditModel, Picture, edit_batch, edit_photo, load_mini, load_model
from ..pipeline.editing import Mask
from ..pipeline.own_mask import check_own_mask, own_masks
from ..pipeline.photo import is_large
from ..refine import find_target_words
from .jobs import BadRow, Job

EDITED, MASKS, UNFINISHED = "edited", "masks", "unfinished"
"""Folders of the results: edited pictures, masks, and files that are being written."""


@dataclass(frozen=True)
class BatchOptions:
    """What all jobs share.

    `model` is a path, or None for the embedded one; `preset` one of `PRESETS`. Edits are computed
    `batch_size` at a time in `threads` threads: both change the last bits of a result, and what else is
    in the batch does not.
    """

    model: str | None
    preset: str
    steps: int
    cfg: float
    batch_size: int
    threads: int

    def settings(self, job: Job) -> MaskSettings:
        """How the job's mask is made."""
        preset = PRESETS[self.preset]
        return replace(preset, threshold=preset.threshold if job.threshold is None else job.threshold, target=job.words)

    def asked(self, job: Job) -> str:
        """What the job's result is made of beside the files, as JSON: not what changes its last bits alone."""
        shared = {"model": self.model, "preset": self.preset, "steps": self.steps, "cfg": self.cfg}
        return json.dumps({**job.values(), **shared}, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What came of a job. `edited` and `mask` are paths in the folder of results; where there is an `error`, None.

    `report` is `Edit.facts` without the timings, of which `timings` has the seconds; `asked` is that of
    `BatchOptions`.
    """

    id: str
    picture: str
    prompt: str
    edited: str | None = None
    mask: str | None = None
    report: dict[str, Any] | None = None
    timings: dict[str, float] | None = None
    error: str | None = None
    asked: str = ""


@dataclass(frozen=True)
class Opened:
    """A job with its files read: picture ``[H, W, 3]`` and alpha ``[H, W]`` uint8, mask ``[H, W]`` bool."""

    job: Job
    picture: Picture
    alpha: Picture | None
    mask: Mask | None


@dataclass(frozen=True)
class Edited:
    """An opened job with its edit, all that is to be saved."""

    opened: Opened
    picture: Picture
    mask: Mask
    report: dict[str, Any]
    timings: dict[str, float]


def refusal(job: Job | BadRow, error: BaseException | str) -> Result:
    """The result of a job that could not be done. What is no valid text is spelled out: a table takes none."""
    reason = " ".join(str(error).split()) or type(error).__name__
    identity, picture, prompt, reason = (
        text.encode("utf-8", "backslashreplace").decode() for text in (job.id, job.picture, job.prompt, reason)
    )
    return Result(identity, picture, prompt, error=reason)


def bucket(job: Job) -> str:
    """Jobs of one bucket can be edited side by side. Empty for a picture that cannot be opened."""
    try:
        return repr((picture_size(Path(job.picture)), _alike(job)))
    except (OSError, ValueError):
        return ""


def open_job(job: Job) -> Opened | Result:
    """Read a job's files."""
    try:
        height, width = picture_size(Path(job.picture))
        if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{job.picture} has {width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
        picture, alpha = read_picture(Path(job.picture))
        mask = None if job.mask is None else read_picture(Path(job.mask))[0].max(-1) > 127
        if mask is not None:
            check_own_mask(mask, picture)
    except (OSError, ValueError, MemoryError) as error:
        return refusal(job, error)
    return Opened(job, picture, alpha, mask)


class Editor:
    """Holds the model and edits opened jobs, as many as there are; results pass as they are.

    Raises ``ValueError`` for a model that cannot be read.
    """

    def __init__(self, options: BatchOptions) -> None:
        torch.set_num_threads(options.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: EditModel = load_model(options.model, device) if options.model else load_mini(device)
        self._options = options

    def __call__(self, items: Sequence[Opened | Result]) -> list[Edited | Result]:
        edited: list[Edited | Result] = [item for item in items if isinstance(item, Result)]
        buckets: dict[Any, list[Opened]] = defaultdict(list)
        for item in items:
            if isinstance(item, Opened):
                try:
                    self._check(item.job)
                except (ValueError, TypeError) as error:
                    edited.append(refusal(item.job, error))
                else:
                    buckets[item.picture.shape, _alike(item.job)].append(item)
        size = self._options.batch_size
        for opened in buckets.values():
            for first in range(0, len(opened), size):
                edited += self._edit(opened[first : first + size])
        return edited

    def _check(self, job: Job) -> None:
        """Raises ``ValueError`` for a prompt that the model cannot read, alone: in a batch it would stop the others."""
        find_target_words(self._model.words(job.prompt), job.words)

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
            "finishing": FinishOptions(options.steps, options.cfg),
        }


def save(item: Edited | Result, options: BatchOptions, out: Path) -> Result:
    """Write an edit's picture and mask into the folder of results; each is there whole or not at all."""
    if isinstance(item, Result):
        return item
    job, alpha = item.opened.job, item.opened.alpha
    edited, mask = (f"{folder}/{job.id}.png" for folder in (EDITED, MASKS))
    try:
        write_whole(out, edited, lambda path: save_edit(item.picture, path, Path(job.picture), alpha))
        write_whole(out, mask, Image.fromarray(item.mask.astype(np.uint8) * 255).save)
    except OSError as error:
        return refusal(job, error)
    return Result(job.id, job.picture, job.prompt, edited, mask, item.report, item.timings, asked=options.asked(job))


def write_whole(out: Path, name: str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file, and only then put it to its place in the folder of results."""
    path = out / UNFINISHED / f"{uuid.uuid4().hex}{Path(name).suffix}"
    try:
        write(path)
        os.replace(path, out / name)
    finally:
        path.unlink(missing_ok=True)


def _alike(job: Job) -> tuple[Any, ...]:
    """What must be equal in jobs that are edited side by side, beside the size of their pictures."""
    return job.strength, job.threshold, job.words


def _collected(opened: Opened, edit: Edit) -> Edited:
    report = edit.facts
    timings = report.pop("timings")
    if opened.mask is not None:  # these say how the mask was found
        report |= dict.fromkeys(("index_word", "fits", "confidence"))
    return Edited(opened, edit.picture, edit.mask.binary[0].numpy(), report, timings)
