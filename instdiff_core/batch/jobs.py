"""The jobs of a batch: the pictures of a folder, or the rows of a CSV, JSON Lines or Parquet file."""

from __future__ import annotations

import csv
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from ..options import SAMPLING, check_range

COLUMNS = ("id", "picture", "prompt", "mask", "seed", "strength", "threshold", "words")
"""What a row may say. `picture` must be there, and `prompt` where the command names none."""

LONGEST_ID = 200
"""Bytes. File systems take names of 255, of which the result's ending and Pillow's need a few."""

NO_NAME = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f]')
"""What stands in no file name on one system or another."""


@dataclass(frozen=True)
class Job:
    """One edit of a batch: what a row says, and the command's settings where it says nothing.

    `id` names the results and is a plain file name; `picture` and `mask` are absolute paths.
    `threshold` None is the preset's. `words` are those of `MaskSettings.target`.

    Raises ``ValueError`` for an id that is no plain file name, and for a value out of range.
    """

    id: str
    picture: str
    prompt: str
    mask: str | None = None
    seed: int = 0
    strength: float = SAMPLING.strength
    threshold: float | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or self.id[0] in ". " or NO_NAME.search(self.id) or len(self.id.encode()) > LONGEST_ID:
            raise ValueError(f"the id {shorten(self.id)} is no plain name of a file")
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("strength", self.strength, 0, 1, open_low=True)
        if self.threshold is not None:
            check_range("threshold", self.threshold, 0, 1)

    @property
    def settings(self) -> tuple[Any, ...]:
        """What must be equal in jobs that are edited side by side, beside the size of their pictures."""
        return self.strength, self.threshold, self.words

    def values(self) -> dict[str, Any]:
        """Everything it says, for JSON."""
        return {**asdict(self), "words": list(self.words)}


@dataclass(frozen=True)
class BadRow:
    """A row that is no job, and why."""

    id: str
    picture: str
    prompt: str
    error: str


def read_jobs(path: Path, defaults: Mapping[str, Any]) -> list[Job | BadRow]:
    """The jobs of a folder or of a table, in order; `defaults` are for what a row does not say, by column.

    The pictures of a folder are those files directly in it whose endings Pillow knows, in the order of
    their names, which are their ids. A row of a table without an id gets its number, from 000001. Paths
    in a table count from its folder. Of rows with the same id the first is a job.

    Raises ``ValueError`` for what holds no jobs at all, and ``OSError`` for what cannot be opened.
    """
    rows = _folder_rows(path) if path.is_dir() else _table_rows(path)
    base = (path if path.is_dir() else path.parent).resolve()
    jobs = [_read_row(number, row, base, defaults) for number, row in enumerate(rows, 1)]
    if not jobs:
        raise ValueError(f"there are no pictures in {path}" if path.is_dir() else f"there are no rows in {path}")
    return list(_without_repeated_ids(jobs))


def shorten(value: object, length: int = 60) -> str:
    """A value as it stands in a program, cut where it is longer."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}…"


Row = Mapping[str, Any] | str
"""The values of a row by column, or why it cannot be read."""


def _folder_rows(folder: Path) -> Iterable[Row]:
    endings = Image.registered_extensions()
    names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in endings and entry.is_file()]
    return [{"id": name, "picture": name} for name in sorted(names)]


def _table_rows(path: Path) -> Iterable[Row]:
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"jobs are a folder or a file that ends in {', '.join(readers)}, not {path}")
    try:
        return list(readers[path.suffix.lower()](path))
    except (ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(reader.fieldnames or ())
        for row in reader:
            yield "it has more fields than the table has columns" if None in row else row


def _json_rows(path: Path) -> Iterator[Row]:
    for line in filter(str.strip, path.read_text(encoding="utf-8").split("\n")):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"it is no JSON: {error}"
        else:
            yield row if isinstance(row, dict) else f"it is no JSON object: {shorten(row)}"


def _parquet_rows(path: Path) -> Iterator[Row]:
    table = pyarrow.parquet.read_table(path)
    _check_columns(table.column_names)
    rows: list[dict[str, Any]] = table.select([name for name in COLUMNS if name in table.column_names]).to_pylist()
    return iter(rows)


def _check_columns(names: Iterable[str]) -> None:
    if "picture" not in names:
        raise ValueError(f"it has no column 'picture', only {shorten(list(names))}")


def _read_row(number: int, row: Row, base: Path, defaults: Mapping[str, Any]) -> Job | BadRow:
    identity = f"{number:06d}"
    if isinstance(row, str):
        return BadRow(identity, "", "", f"row {number}: {row}")
    said = {name: value for name, value in row.items() if not _is_missing(value)}
    values = {**defaults, **said}
    try:
        identity = _text(said, "id", str, int) if "id" in said else identity
        mask = _text(values, "mask") if "mask" in values else None
        return Job(
            id=identity,
            picture=str(base / _text(values, "picture")),
            prompt=_text(values, "prompt"),
            mask=None if mask is None else str(base / mask),
            seed=_whole(_number(values, "seed")),
            strength=_number(values, "strength"),
            threshold=None if values.get("threshold") is None else _number(values, "threshold"),
            words=_words(values.get("words", ())),
        )
    except ValueError as error:
        picture, prompt = (str(values.get(name, "")) for name in ("picture", "prompt"))
        return BadRow(identity, picture, prompt, f"row {number}: {error}")


def _without_repeated_ids(jobs: Iterable[Job | BadRow]) -> Iterator[Job | BadRow]:
    """The later of two jobs whose results some file system would take for one becomes a bad row."""
    names = set()
    for job in jobs:
        name = unicodedata.normalize("NFC", job.id).casefold()
        if isinstance(job, Job) and name in names:
            yield BadRow(job.id, job.picture, job.prompt, f"an earlier row has the id {shorten(job.id)} too")
        else:
            yield job
        if isinstance(job, Job):
            names.add(name)


def _is_missing(value: Any) -> bool:
    """Whether a cell says nothing: tables have empty texts and NaN there."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _text(values: Mapping[str, Any], name: str, *types: type) -> str:
    if name not in values:
        raise ValueError(f"it has no {name}")
    value = values[name]
    if not isinstance(value, types or (str,)) or isinstance(value, bool):
        raise ValueError(f"{name} must be text, not {shorten(value)}")
    text = str(value)
    if "\0" in text or text != text.encode("utf-8", "replace").decode():
        raise ValueError(f"{name} holds what is no character")
    return text


def _number(values: Mapping[str, Any], name: str) -> float:
    """A number that is one, or is written as one; a whole one exactly, however large."""
    value = values[name]
    try:
        if isinstance(value, str):
            return int(value) if value.strip().isdecimal() else float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    except ValueError:
        pass
    raise ValueError(f"{name} must be a number, not {shorten(value)}")


def _whole(number: float) -> int:
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"seed must be a whole number, not {number}")
    return int(number)


def _words(value: Any) -> tuple[str, ...]:
    """Words of a list, or of a text with commas between them."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"words must be text, not {shorten(value)}")
    return tuple(_text({"words": word}, "words").strip() for word in words if word.strip())
