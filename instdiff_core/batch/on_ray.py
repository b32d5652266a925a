"""The jobs of a batch as Ray Data pipelines: bucket by size; then read, edit by a pool of workers, write.

Ray places, feeds and restarts the workers; each holds the model once, on a GPU of its own where there
are any. Pictures and results are files that every machine of the cluster sees under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when Ray is imported: it reports to nobody, and says in the terminal only what ends it.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"} | os.environ
# A cluster asks for this machine's token where there is one, and Ray shows it to none that it is given by address.
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray.data import ActorPoolStrategy, DataContext

from .jobs import Job
from .work import BatchOptions, Result, bucket, make_batches, open_job, save

CONNECTING = 20
"""Seconds that a cluster has to answer."""

MOST_BLOCKS = 10_000
"""Ray keeps account of each."""

Row = dict[str, Any]


@contextmanager
def cluster(address: str, workers: int | None) -> Iterator[int]:
    """Joins the cluster at `address`, or starts one on this machine for "local", and says how many workers it has.

    Where no number is asked for it is that of GPUs, or where there are none that of CPUs.
    Raises ``ValueError`` where there is no such cluster, or where it is too small.
    """
    here = os.cpu_count() or 1
    # A CPU more than the workers have is for reading and writing.
    cpus = {"num_cpus": max(here, (workers or here) + 1)} if address == "local" else {}
    try:
        _check_reachable(address)
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False, **cpus)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
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


def _check_reachable(address: str) -> None:
    """Raises ``OSError`` where nothing answers at an address with a port: Ray itself would try for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), CONNECTING).close()


def run_on_ray(jobs: Sequence[Job], options: BatchOptions, out: Path, workers: int) -> Iterator[Result]:
    """The results as they come, in any order. Raises ``ValueError`` where the workers cannot work at all."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    place = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    try:
        measured = ray.data.from_items([{"job": job} for job in jobs]).map(_with_bucket)
        buckets = {row["job"].id: row["bucket"] for row in measured.iter_rows()}
        batches = make_batches(jobs, buckets, options.batch_size)
        edited = (
            # a batch to a block: a worker gets, and passes on, a block at a time
            ray.data.from_items([_row(batch) for batch in batches], override_num_blocks=min(len(batches), MOST_BLOCKS))
            .map(_opened)
            .map(_Worker, fn_constructor_args=(options,), compute=ActorPoolStrategy(size=workers), **place)
            .map(_saved, fn_args=(options, out))
        )
        for row in edited.iter_rows():
            yield from row["batch"].items
    except ray.exceptions.RayError as error:
        raise ValueError(f"the workers stopped: {str(error).splitlines()[-1]}") from error


@dataclass(frozen=True)
class _Batch:
    """Jobs of one bucket on their way: they, or what has come of them so far. Ray passes it as it is."""

    items: Sequence[Any]


class _Worker:
    """An `Editor` in a process of Ray's pool."""

    def __init__(self, options: BatchOptions) -> None:
        from .editor import Editor  # here: no other process of the cluster needs what it loads

        self._editor = Editor(options)

    def __call__(self, row: Row) -> Row:
        return _row(self._editor(row["batch"].items))


def _row(items: Sequence[Any]) -> Row:
    return {"batch": _Batch(items)}


def _with_bucket(row: Row) -> Row:
    return {**row, "bucket": bucket(row["job"])}


def _opened(row: Row) -> Row:
    return _row([open_job(job) for job in row["batch"].items])


def _saved(row: Row, options: BatchOptions, out: Path) -> Row:
    return _row([save(item, options, out) for item in row["batch"].items])
