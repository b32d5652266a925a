"""The folder of results: what is there already, what comes, and the table of all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import pyarrow
import pyarrow.parquet
from filelock import FileLock, Timeout

from .jobs import BadRow, Job
from .work import EDITED, MASKS, UNFINISHED, BatchOptions, Result, refusal, write_whole

TABLE, JOURNAL, LOCK = "results.parquet", "results.jsonl", ".lock"

SCHEMA = pyarrow.schema(
    {
        **dict.fromkeys(("id", "picture", "prompt", "edited", "mask"), pyarrow.string()),
        "report": pyarrow.struct(
            {
                "index_word": pyarrow.string(),
                "words": pyarrow.list_(pyarrow.struct({"word": pyarrow.string(), "weight": pyarrow.int8()})),
                "fits": pyarrow.bool_(),
                "mask_area": pyarrow.float64(),
                "confidence": pyarrow.float64(),
            }
        ),
        "timings": pyarrow.struct(dict.fromkeys(("encode", "sample", "finish"), pyarrow.float64())),
        **dict.fromkeys(("error", "asked"), pyarrow.string()),
    }
)
"""The columns of the table: the fields of `Result`."""


class Results:
    """The results in a folder, open for one run at a time, as a context.

    What comes in is noted in a journal at once; the end of the context makes the table of it. A run that
    was killed leaves the journal, and the next one goes on from there.

    Entering raises ``ValueError`` where another run has the folder or its table cannot be read, and
    ``OSError`` where it cannot be written to.
    """

    def __init__(self, out: Path, jobs: Sequence[Job | BadRow], options: BatchOptions) -> None:
        self._out, self._jobs, self._options = out, jobs, options
        self._by_id: dict[str, Result] = {}
        self._lock = FileLock(out / LOCK)

    def __enter__(self) -> Results:
        self._out.mkdir(exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another run is writing to {self._out}") from error
        try:
            earlier = [*self._read_table(), *self._read_journal()]
            for folder in (EDITED, MASKS, UNFINISHED):
                (self._out / folder).mkdir(exist_ok=True)
            self._journal = (self._out / JOURNAL).open("a", encoding="utf-8")
            self._journal.write("\n")  # after what may be a piece of a line
        except BaseException:
            self._lock.release()
            raise
        self._by_id = {result.id: result for result in earlier if result.error is None}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._journal.close()
            table = pyarrow.Table.from_pylist([asdict(result) for result in self.all()], SCHEMA)
            write_whole(self._out, TABLE, lambda path: pyarrow.parquet.write_table(table, path))
            (self._out / JOURNAL).unlink()
            shutil.rmtree(self._out / UNFINISHED)
        finally:
            self._lock.release()

    def to_do(self) -> list[Job]:
        """The jobs without a result, with a failed one, or with one of another row or setting."""
        return [job for job in self._jobs if isinstance(job, Job) and not self._is_done(job)]

    def add(self, result: Result) -> None:
        """Note the result of a job."""
        self._journal.write(json.dumps(asdict(result)) + "\n")
        self._journal.flush()
        self._by_id[result.id] = result

    def all(self) -> list[Result]:
        """The results so far, in the order of the jobs, bad rows included."""
        results = [self._by_id.get(job.id) if isinstance(job, Job) else refusal(job, job.error) for job in self._jobs]
        return [result for result in results if result is not None]

    def _is_done(self, job: Job) -> bool:
        result = self._by_id.get(job.id)
        return (
            result is not None
            and result.asked == self._options.asked(job)
            and all(name is not None and (self._out / name).is_file() for name in (result.edited, result.mask))
        )

    def _read_table(self) -> list[Result]:
        path = self._out / TABLE
        if not path.exists():
            return []
        try:
            table = pyarrow.parquet.read_table(path).cast(SCHEMA)
        except (pyarrow.ArrowException, ValueError) as error:
            raise ValueError(f"{path} is no table of results: {error}") from error
        return [Result(**row) for row in table.to_pylist()]

    def _read_journal(self) -> list[Result]:
        """The results of a run that was killed; its last line may be a piece of one."""
        path, results = self._out / JOURNAL, []
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            with contextlib.suppress(ValueError, TypeError):
                results.append(Result(**json.loads(line)))
        return results
