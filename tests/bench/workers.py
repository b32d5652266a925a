"""Jobs a second of `batch` on two workers of Ray against one, each in one thread, and without Ray.

    python -m tests.bench.workers [--jobs 200] [--size 128] [--steps 10]

Composed pictures of one size with the embedded model. The seconds are those between the first result and the
last, so that starting Ray and loading the model do not count; the orders one-two and two-one are both run. Ends
with an error where a picture or a mask differs from the one without Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from instdiff_core.batch import BatchOptions
from instdiff_core.batch.editor import Editor
from instdiff_core.batch.here import run_here
from instdiff_core.batch.jobs import Job
from instdiff_core.batch.on_ray import cluster, run_on_ray
from instdiff_core.batch.work import EDITED, MASKS, UNFINISHED, Result
from instdiff_core.mini.scenes import compose


@contextmanager
def _results(jobs: list[Job], options: BatchOptions, workers: int, out: Path) -> Iterator[Iterator[Result]]:
    for folder in (EDITED, MASKS, UNFINISHED):
        (out / folder).mkdir(parents=True)
    if not workers:
        yield run_here(jobs, Editor(options), options, out)
        return
    with cluster("local", workers):
        yield run_on_ray(jobs, options, out, workers)


def measure(jobs: list[Job], options: BatchOptions, workers: int, out: Path) -> float:
    """Jobs a second, on so many workers of Ray; without Ray for 0."""
    with _results(jobs, options, workers, out) as results:
        ends = [time.perf_counter() for result in results if result.error is None]
    if len(ends) < len(jobs):
        raise RuntimeError(f"{len(jobs) - len(ends)} jobs failed")
    return (len(ends) - 1) / (ends[-1] - ends[0])


def edits_in(out: Path) -> dict[str, bytes]:
    """Pictures and masks of a batch."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in out.glob("*/*.png")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    options = BatchOptions(None, None, "default", arguments.steps, 7.5, 1, 1)
    with tempfile.TemporaryDirectory() as name:
        folder, jobs = Path(name), []
        for number in range(arguments.jobs):
            path = folder / f"{number}.png"
            Image.fromarray(compose(np.random.default_rng(number), ["cat"], "grass", size=arguments.size)[0]).save(path)
            jobs.append(Job(f"{number}", str(path), "a dog", seed=number))
        rates: dict[int, list[float]] = defaultdict(list)
        for run, workers in enumerate((0, 1, 2, 2, 1)):
            out = folder / f"out{run}"
            rate = measure(jobs, options, workers, out)
            rates[workers].append(rate)
            print(json.dumps({"workers": workers, "jobs a second": rate, "load": os.getloadavg()[0]}), flush=True)
            if edits_in(out) != edits_in(folder / "out0"):
                raise RuntimeError("results differ from those without Ray")
        print(json.dumps({"two workers against one": sum(rates[2]) / sum(rates[1])}))


if __name__ == "__main__":
    main()
