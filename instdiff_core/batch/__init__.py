"""Edits of many pictures: in this process, or on the workers of a Ray cluster.

A job's result depends on its own row and the command's settings, never on the other jobs, the workers
or the order: bit for bit on one kind of device, at one `--batch-size` and one number of `--threads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .jobs import Job, read_jobs
from .results import Results
from .work import BatchOptions, Result

__all__ = ["BatchOptions", "run_batch"]


def run_batch(
    jobs: Path,
    out: Path,
    options: BatchOptions,
    defaults: dict[str, Any],
    ray: str | None = None,
    workers: int | None = None,
) -> list[Result]:
    """Do what is still to do of the jobs, and give the results of all; `defaults` are those of `read_jobs`.

    `ray` is the address of a cluster, "local" for one of `workers` workers on this machine that ends
    with the batch, or None for this process.

    Raises ``ValueError`` and ``OSError`` for what concerns all jobs. What was done until then stays done.
    """
    rows = read_jobs(jobs, defaults)
    out = out.resolve()
    with ExitStack() as stack:
        # Only what does the edits is imported: the one needs the model's libraries, the other Ray.
        run: Callable[[Sequence[Job]], Iterator[Result]]
        if ray is None:
            from .editor import Editor
            from .here import run_here

            run = partial(run_here, editor=Editor(options), options=options, out=out)
        else:
            from . import on_ray

            places = stack.enter_context(on_ray.cluster(ray, workers))
            run = partial(on_ray.run_on_ray, options=options, out=out, workers=places)
        results = stack.enter_context(Results(out, rows, options))
        to_do = results.to_do()
        new = run(to_do) if to_do else ()
        for result in tqdm(new, "edited", len(rows), initial=len(rows) - len(to_do), unit="job", disable=None):
            results.add(result)
        return results.all()
