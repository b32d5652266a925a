"""The jobs of a batch one after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .editor import Editor
from .jobs import Job
from .work import BatchOptions, Result, bucket, make_batches, open_job, save


def run_here(jobs: Sequence[Job], editor: Editor, options: BatchOptions, out: Path) -> Iterator[Result]:
    """The results as they come, bucket by bucket."""
    for batch in make_batches(jobs, {job.id: bucket(job) for job in jobs}, options.batch_size):
        for item in editor([open_job(job) for job in batch]):
            yield save(item, options, out)
