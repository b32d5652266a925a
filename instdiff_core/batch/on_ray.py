"""The jobs of a batch as a Ray Data pipeline: read, bucket by size, edit by a pool of workers, write.

Ray places, feeds and restarts the workers; each holds the model once, on a GPU of its own where there
are any. Pictures and results are files that every machine of the cluster sees under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# read when Ray is imported: it reports to nobody, and says in the terminal only what ends it
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"} | os.environ

import ray
from ray.data import ActorPoolStrategy, DataContext

from .jobs import Job
from .work import BatchOptions, Editor, Result, bucket, open_job, save

FILE_CPUS = 0.25
"""The part of a CPU that reading or writing a picture is counted as."""

Row = dict[str, Any]
"""A job on its way: it, or what has come of it so far, under "item"."""


@contextmanager
def cluster(address: str, workers: int | None) -> Iterator[int]:
    """Joins the cluster at `address`, or starts one on this machine for "local", and says how many workers it has.

    Where no number is asked for it is that of GPUs, or where there are none that of CPUs.
    Raises ``ValueError`` where there is no such cluster, or where it is too small.
    """
    local = address == "local"
    # a CPU more than the workers have is for reading and writing
    cpus = {"num_cpus": (workers or os.cpu_count() or 1) + 1} if local else {}
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False, **cpus)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"no Ray cluster can be had at {address}: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        has = ray.cluster_resources()
        most = int(has.get("GPU", 0)) or int(has.get("CPU", 0)) - 1
        if most < (workers or 1):
            raise ValueError(f"the cluster has room for {max(0, most)} workers, not for {workers or 1}")
        yield workers or most
    finally:
        ray.shutdown()


def run_on_ray(jobs: Sequence[Job], options: BatchOptions, out: Path, workers: int) -> Iterator[Result]:
    """The results as they come, in any order. Raises ``ValueError`` where the workers cannot work at all."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    files: dict[str, Any] = {"num_cpus": FILE_CPUS}
    place = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    edited = (
        ray.data.from_items([{"item": job} for job in jobs], override_num_blocks=-(-len(jobs) // options.batch_size))
        .map(_with_bucket, **files)
        .sort("bucket")
        .map(_opened, **files)
        .map_batches(
            _Worker,
            fn_constructor_args=(options,),
            batch_size=options.batch_size,
            compute=ActorPoolStrategy(size=workers),
            **place,
        )
        .map(_saved, fn_args=(options, out), **files)
    )
    try:
        for row in edited.iter_rows():
            yield row["item"]
    except ray.exceptions.RayError as error:
        raise ValueError(f"the workers stopped: {str(error).splitlines()[-1]}") from error


class _Worker:
    """An `Editor` in a process of Ray's pool."""

    def __init__(self, options: BatchOptions) -> None:
        self._editor = Editor(options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"item": _objects(self._editor(list(batch["item"])))}


def _with_bucket(row: Row) -> Row:
    return {**row, "bucket": bucket(row["item"])}


def _opened(row: Row) -> Row:
    return {"item": open_job(row["item"])}


def _saved(row: Row, options: BatchOptions, out: Path) -> Row:
    return {"item": save(row["item"], options, out)}


def _objects(items: Sequence[Any]) -> Any:
    """An array of objects as they are."""
    column = np.empty(len(items), object)
    column[:] = items
    return column
