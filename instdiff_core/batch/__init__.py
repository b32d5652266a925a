"""Edits of many pictures: in this process, or on the workers of a Ray cluster.

A job's result depends on its own row and the command's settings, never on the other jobs, the workers
or the order: bit for bit on one kind of device, at one `--batch-size` and one number of `--threads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .here import run_here
from .jobs import read_jobs
from .results import Results
from .work import BatchOptions, Editor, Result

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
        if ray is None:
            editor = Editor(options)
        else:
            from . import on_ray

            places = stack.enter_context(on_ray.cluster(ray, workers))
        results = stack.enter_context(Results(out, rows, options))
        to_do = results.to_do()
        new: Iterator[Result] = iter(())
        if to_do and ray is None:
            new = run_here(to_do, editor, options, out)
        elif to_do:
            new = on_ray.run_on_ray(to_do, options, out, places)
        for result in tqdm(new, "edited", len(rows), initial=len(rows) - len(to_do), unit="job", disable=None):
            results.add(result)
        return results.all()
