"""What happens to one job before and after its edit: its files are read, and its results written.

Nothing here needs the model: the processes of Ray that read and write do not load what runs it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..arrays import Alpha, Mask, Picture
from ..files import picture_size, read_picture, save_edit
from ..options import PRESETS, MaskSettings
from .jobs import BadRow, Job

EDITED, MASKS, UNFINISHED = "edited", "masks", "unfinished"
"""Folders of the results: edited pictures, masks, and files that are being written."""


@dataclass(frozen=True)
class BatchOptions:
    """What all jobs share.

    `model` and `inpainting`, which finishes its edits, are paths; a `model` of None is the embedded one. `preset` is
    one of `PRESETS`. Edits are computed `batch_size` at a time in `threads` threads: both change the last bits of a
    result, and what else is in the batch does not.
    """

    model: str | None
    inpainting: str | None
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
        names = ("model", "inpainting", "preset", "steps", "cfg")
        shared = {name: getattr(self, name) for name in names}
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
    alpha: Alpha | None
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
        return repr((picture_size(Path(job.picture)), job.settings))
    except (OSError, ValueError):
        return ""


def make_batches(jobs: Sequence[Job], buckets: Mapping[str, str], size: int) -> list[Sequence[Job]]:
    """The jobs in batches of one bucket each, of `size` as far as there are so many; `buckets` are by the jobs' ids."""
    by_bucket: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_bucket[buckets[job.id]].append(job)
    return [alike[first : first + size] for alike in by_bucket.values() for first in range(0, len(alike), size)]


def open_job(job: Job) -> Opened | Result:
    """Read a job's files."""
    try:
        height, width = picture_size(Path(job.picture))
        if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{job.picture} has {width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
        picture, alpha = read_picture(Path(job.picture))
        mask = None if job.mask is None else read_picture(Path(job.mask))[0].max(-1) > 127
    except (OSError, ValueError, MemoryError) as error:
        return refusal(job, error)
    return Opened(job, picture, alpha, mask)


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
