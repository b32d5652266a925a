"""The jobs of a batch one after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

from .jobs import Job
from .work import BatchOptions, Editor, Result, bucket, open_job, save


def run_here(jobs: Sequence[Job], editor: Editor, options: BatchOptions, out: Path) -> Iterator[Result]:
    """The results as they come, bucket by bucket."""
    keys = {job.id: bucket(job) for job in jobs}
    for _, alike in groupby(sorted(jobs, key=lambda job: keys[job.id]), lambda job: keys[job.id]):
        while batch := list(islice(alike, options.batch_size)):
            for item in editor([open_job(job) for job in batch]):
                yield save(item, options, out)
