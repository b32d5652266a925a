"""What ``python -m instdiff_core batch`` promises, in this process."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import instdiff_core
from instdiff_core import __main__ as command_line
from instdiff_core.batch.jobs import BadRow, Job, read_jobs
from instdiff_core.batch.results import Results
from instdiff_core.batch.work import BatchOptions
from instdiff_core.mini.scenes import compose

SIDE = 96
DEFAULTS = {"prompt": None, "seed": 0, "strength": 0.5, "threshold": None}


def save_scene(path: Path, seed: int, side: int = SIDE) -> None:
    Image.fromarray(compose(np.random.default_rng(seed), ["cat"], "grass", size=side)[0]).save(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a table in the format of the path's ending."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        full = [{name: row.get(name) for name in columns} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({**row, "words": ", ".join(row["words"])} if "words" in row else row for row in rows)
    return path


def run(*arguments: object) -> int:
    """The exit code of a batch of one step."""
    try:
        command_line.main(["batch", *map(str, arguments), "--steps", "1"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def read_results(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    return rows


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times_in(folder: Path) -> dict[str, int]:
    """When each of the pictures in a folder was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def edits_in(out: Path) -> dict[str, bytes]:
    """Pictures and masks of a batch."""
    return {name: content for name, content in files_in(out).items() if name.endswith(".png")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures and a text."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    save_scene(pictures / "a.png", 1)
    save_scene(pictures / "b.jpg", 2)
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def test_a_folder_becomes_pictures_masks_and_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    with Image.open(folder / "a.png") as image:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(folder / "a.png")
    assert run(folder, "--out", out, "--prompt", "a dog") == 0
    assert capsys.readouterr().out == f"jobs: 2 done, 0 failed: {out / 'results.parquet'}\n"
    rows = read_results(out)
    assert [row["id"] for row in rows] == ["a.png", "b.jpg"]
    for row in rows:
        assert row["error"] is None
        assert row["report"]["index_word"] in ("a", "dog")
        assert row["timings"]["sample"] > 0
        with Image.open(row["picture"]) as before, Image.open(out / row["edited"]) as edited:
            assert edited.size == before.size
            assert edited.mode == before.mode
        with Image.open(out / row["mask"]) as mask:
            assert (np.asarray(mask) > 127).mean() == pytest.approx(row["report"]["mask_area"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_row_says_how_its_picture_is_edited(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "x", "picture": "a.png", "prompt": "a red car", "seed": 7, "strength": 0.4, "words": ["car", "red"]},
        {"id": None, "picture": str(tmp_path / "sub" / "b.png"), "mask": "m.png", "prompt": "猫", "threshold": 0.3},
    ]
    path = write_table(tmp_path / f"jobs.{ending}", rows)
    assert read_jobs(path, DEFAULTS) == [
        Job("x", str(tmp_path / "a.png"), "a red car", seed=7, strength=0.4, words=("car", "red")),
        Job("000002", str(tmp_path / "sub" / "b.png"), "猫", mask=str(tmp_path / "m.png"), threshold=0.3),
    ]


def test_what_a_row_does_not_say_the_command_says(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"picture": "a.png", "seed": ""}, {"picture": "b.png", "seed": "5.0"}]
    path = write_table(tmp_path / "jobs.csv", rows)
    first, second = read_jobs(path, {"prompt": "a dog", "seed": 3, "strength": 0.6, "threshold": 0.2})
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert (first.prompt, first.seed, first.strength, first.threshold) == ("a dog", 3, 0.6, 0.2)
    assert second.seed == 5


def test_a_result_depends_on_its_own_row_only(folder: Path) -> None:
    """Batches that are filled in other ways, other orders, other jobs: the same pictures."""
    save_scene(folder / "c.png", 3)
    save_scene(folder / "d.png", 4, 64)
    rows: list[dict[str, Any]] = [
        {"id": name[0], "picture": name, "prompt": f"a {word}", "seed": seed}
        for seed, (name, word) in enumerate([("a.png", "dog"), ("b.jpg", "frog"), ("c.png", "car"), ("d.png", "dog")])
    ]
    outs = []
    for number, part in enumerate([rows, rows[::-1], rows[1:2], rows[2:]]):
        outs.append(folder / f"out{number}")
        assert run(write_table(folder / f"{number}.jsonl", part), "--out", outs[-1], "--batch-size", 2) == 0
    whole, *others = map(edits_in, outs)
    assert len(whole) == 8
    assert others[0] == whole
    assert others[1] == {name: whole[name] for name in ("edited/b.png", "masks/b.png")}
    assert others[2].items() < whole.items()


@pytest.mark.parametrize("side", [SIDE, 400], ids=["as it is", "in a crop"])
def test_an_own_mask_is_where_the_picture_is_edited(folder: Path, side: int) -> None:
    save_scene(folder / "a.png", 1, side)
    drawn = np.zeros((side, side), bool)
    drawn[side // 2 : side // 2 + 40, 20:60] = True
    Image.fromarray(drawn).save(folder / "mask.png")
    jobs = write_table(folder / "jobs.jsonl", [{"id": "a", "picture": "a.png", "mask": "mask.png", "prompt": "a dog"}])
    assert run(jobs, "--out", folder / "out") == 0
    before, after, mask = (
        np.asarray(Image.open(path))
        for path in (folder / "a.png", folder / "out/edited/a.png", folder / "out/masks/a.png")
    )
    assert (drawn & (mask > 127)).sum() > 0.8 * (drawn | (mask > 127)).sum()
    changed = (before != after).any(-1)
    assert changed[drawn].mean() > 0.8
    room = 2 * 16
    drawn[side // 2 - room : side // 2 + 40 + room, : 60 + room] = True
    assert not changed[~drawn].any()
    (row,) = read_results(folder / "out")
    assert row["report"]["index_word"] is None


def test_a_bad_job_becomes_a_row_with_its_error_and_stops_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    Image.new("L", (10_000, 10_000)).save(folder / "huge.png")
    save_scene(folder / "small.png", 1, 64)
    Image.new("L", (SIDE, SIDE)).save(folder / "black.png")
    os.mkfifo(folder / "pipe.png")
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"picture": "nowhere.png"}, "nowhere.png"),
        "cut": ({"picture": "cut.png"}, "cannot be read as a picture"),
        "empty": ({"picture": "empty.png"}, "cannot be read as a picture"),
        "folder": ({"picture": "."}, "no plain file"),
        "pipe": ({"picture": "pipe.png"}, "no plain file"),
        "mask pipe": ({"mask": "pipe.png"}, "no plain file"),
        "huge": ({"picture": "huge.png"}, "10000 x 10000"),
        "wordless": ({"prompt": "  "}, "no words"),
        "long": ({"prompt": "dog " * 100}, "100 tokens"),
        "word": ({"words": "cat"}, "cat"),
        "mask size": ({"mask": "small.png"}, "the mask has 64 x 64 pixels, the picture 96 x 96"),
        "mask black": ({"mask": "black.png"}, "the mask is empty"),
    }
    rows = [{"id": name, "picture": "a.png", "prompt": "a dog", **row} for name, (row, _) in bad.items()]
    jobs = write_table(folder / "jobs.jsonl", [{"id": "good", "picture": "a.png", "prompt": "a dog"}, *rows])
    before = files_in(folder)
    assert run(jobs, "--out", folder / "out", "--batch-size", 2) == 1
    assert capsys.readouterr().out.startswith("jobs: 1 done, 12 failed: ")
    good, *results = read_results(folder / "out")
    assert good["error"] is None
    assert [result["id"] for result in results] == list(bad)
    for result in results:
        assert bad[result["id"]][1] in result["error"]
        assert result["edited"] is result["mask"] is result["report"] is None
    assert set(edits_in(folder / "out")) == {"edited/good.png", "masks/good.png"}
    assert before.items() <= files_in(folder).items()


HOSTILE_FILES: dict[str, tuple[str, bytes]] = {
    "no column picture": ("a.csv", b"image,prompt\na.png,a dog\n"),
    "nothing at all": ("a.csv", b""),
    "only a header": ("a.csv", b"picture,prompt\n"),
    "not in UTF-8": ("a.csv", b"picture,prompt\na.png,\xff\xfe\n"),
    "a field of a megabyte": ("a.csv", b"picture,prompt\na.png," + b"x" * 2**20),
    "no Parquet": ("a.parquet", b"PAR1 and no more"),
    "an empty Parquet": ("a.parquet", b""),
    "no lines": ("a.jsonl", b"\n\n"),
    "another format": ("a.xlsx", b"PK"),
    "a pickle": ("a.pkl", b"\x80\x04."),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_file_without_jobs_is_said_in_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, content = HOSTILE_FILES[name]
    (folder / file).write_bytes(content)
    before = files_in(folder.parent)
    assert run(folder / file, "--out", folder / "out", "--prompt", "a dog") == 2
    error = capsys.readouterr().err
    assert error.startswith("instdiff: ")
    assert error.count("\n") == 1
    assert files_in(folder.parent) == before
    assert not (folder / "out").exists()


def test_a_folder_without_pictures_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert run(tmp_path, "--out", tmp_path / "out", "--prompt", "a dog") == 2
    assert "no pictures" in capsys.readouterr().err


HOSTILE_ROWS: dict[str, tuple[str, str]] = {
    "an id that leads out": ('{"picture": "a.png", "id": "../../evil"}', "plain name"),
    "an absolute id": ('{"picture": "a.png", "id": "/etc/passwd"}', "plain name"),
    "an id of another system": ('{"picture": "a.png", "id": "..\\\\evil"}', "plain name"),
    "a hidden id": ('{"picture": "a.png", "id": ".."}', "plain name"),
    "an id with a line break": ('{"picture": "a.png", "id": "a\\nb"}', "plain name"),
    "an id with a zero": ('{"picture": "a.png", "id": "a\\u0000b"}', "no character"),
    "half a character": ('{"picture": "a.png", "id": "\\ud800"}', "no character"),
    "a long id": ('{"picture": "a.png", "id": "%s"}' % ("x" * 300), "plain name"),
    "an id that is a list": ('{"picture": "a.png", "id": ["a"]}', "id must be text"),
    "no picture": ('{"prompt": "a dog"}', "no picture"),
    "a number for a picture": ('{"picture": 5}', "picture must be text"),
    "a text for a seed": ('{"picture": "a.png", "seed": "many"}', "seed must be a number"),
    "a seed beyond all floats": (f'{{"picture": "a.png", "seed": 1{"0" * 400}}}', "seed must be from 0 to"),
    "a piece of a seed": ('{"picture": "a.png", "seed": 1.5}', "seed must be a whole number"),
    "a seed of a hundred digits": ('{"picture": "a.png", "seed": %s}' % ("9" * 100), "seed must be from"),
    "an endless strength": ('{"picture": "a.png", "strength": Infinity}', "strength must be"),
    "true for a threshold": ('{"picture": "a.png", "threshold": true}', "threshold must be a number"),
    "numbers for words": ('{"picture": "a.png", "words": [1]}', "words must be text"),
    "no JSON": ("picture: a.png", "no JSON"),
    "a list": ('["a.png"]', "no JSON object"),
    "a deep list": ("[" * 100_000, "no JSON"),
}


@pytest.mark.parametrize("name", HOSTILE_ROWS)
def test_a_row_that_is_no_job_says_why(tmp_path: Path, name: str) -> None:
    row, message = HOSTILE_ROWS[name]
    path = tmp_path / "jobs.jsonl"
    path.write_text(f'{row}\n{{"picture": "b.png"}}\n', encoding="utf-8")
    bad, good = read_jobs(path, {**DEFAULTS, "prompt": "a dog"})
    assert isinstance(bad, BadRow)
    assert message in bad.error
    assert bad.error.startswith("row 1: ")
    assert isinstance(good, Job)


def test_columns_of_other_types_in_parquet_are_said_row_by_row(tmp_path: Path) -> None:
    today = datetime(2026, 1, 1, tzinfo=timezone.utc)
    columns: dict[str, tuple[Any, str]] = {
        "picture": (b"a.png", "picture must be text"),
        "prompt": ({"text": "a dog"}, "prompt must be text"),
        "seed": (Decimal("1.5"), "seed must be a number"),
        "strength": (today, "strength must be a number"),
        "id": (2.5, "id must be text"),
        "words": ([1, 2], "words must be text"),
        "mask": (True, "mask must be text"),
    }
    for name, (value, message) in columns.items():
        row = {"picture": "a.png", name: value}
        (bad,) = read_jobs(write_table(tmp_path / f"{name}.parquet", [row]), {**DEFAULTS, "prompt": "a dog"})
        assert isinstance(bad, BadRow)
        assert message in bad.error


def test_hostile_rows_write_nothing_outside_the_folder_of_results(folder: Path) -> None:
    jobs = folder / "jobs.jsonl"
    jobs.write_text("\n".join(row for row, _ in HOSTILE_ROWS.values()), encoding="utf-8")
    before = files_in(folder.parent)
    assert run(jobs, "--out", folder / "out", "--prompt", "a dog") == 1
    after = files_in(folder.parent)
    assert {name for name in after.keys() - before.keys() if not name.startswith("pictures/out/")} == set()
    assert before.items() <= after.items()
    assert len(read_results(folder / "out")) == len(HOSTILE_ROWS)
    assert not edits_in(folder / "out")


@pytest.mark.parametrize("second", ["x", "X"], ids=["the same", "in other letters"])
def test_of_two_jobs_with_one_id_the_first_is_done(tmp_path: Path, second: str) -> None:
    rows = [{"id": name, "picture": f"{name}.png", "prompt": "a dog"} for name in ("x", second, "y")]
    first, repeated, other = read_jobs(write_table(tmp_path / "jobs.jsonl", rows), DEFAULTS)
    assert isinstance(first, Job)
    assert isinstance(repeated, BadRow)
    assert "an earlier row has the id" in repeated.error
    assert isinstance(other, Job)


def test_started_again_what_is_done_is_left_alone_and_the_rest_is_done(folder: Path) -> None:
    out = folder / "out"
    rows = [{"id": name, "picture": f"{name}.png", "prompt": "a dog"} for name in "abcde"]
    for number, name in enumerate("abcd"):
        save_scene(folder / f"{name}.png", number)
    jobs = write_table(folder / "jobs.jsonl", rows)
    assert run(jobs, "--out", out) == 1
    first = times_in(out / "edited")
    save_scene(folder / "e.png", 5)
    (out / "edited" / "b.png").unlink()
    rows[2]["prompt"] = "a frog"
    assert run(write_table(jobs, rows), "--out", out) == 0
    second = times_in(out / "edited")
    assert {name for name in second if second[name] == first.get(name)} == {"a.png", "d.png"}
    assert [row["prompt"] for row in read_results(out)] == ["a dog", "a dog", "a frog", "a dog", "a dog"]
    assert run(jobs, "--out", out) == 0
    assert times_in(out / "edited") == second


COUNT = 6
"""Pictures of a run that is stopped twice, each time after the next picture."""


def test_a_run_that_was_killed_and_then_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(COUNT):
        save_scene(tmp_path / f"{number}.png", number)
    out, whole = tmp_path / "out", tmp_path / "whole"
    words = ["batch", tmp_path, "--out", out, "--prompt", "a dog", "--steps", "1"]
    done: dict[str, int] = {}
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "instdiff_core", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(Path(instdiff_core.__file__).parent.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a run in the background ignores
        )
        while process.poll() is None and len(times_in(out / "edited")) <= len(done):
            time.sleep(0.01)
        process.send_signal(how)
        process.wait()
        assert len(done) < len(times_in(out / "edited")) < COUNT
        done = times_in(out / "edited")
    assert run(tmp_path, "--out", out, "--prompt", "a dog") == 0
    assert run(tmp_path, "--out", whole, "--prompt", "a dog") == 0
    assert edits_in(out) == edits_in(whole)
    assert set(os.listdir(out)) == {".lock", "edited", "masks", "results.parquet"}
    assert sorted(row["id"] for row in read_results(out)) == sorted(f"{number}.png" for number in range(COUNT))


def test_two_runs_do_not_write_to_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    with Results(out, [], BatchOptions(None, None, "default", 1, 7.5, 1, 1)):
        assert run(folder, "--out", out, "--prompt", "a dog") == 2
    assert "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "nowhere"], "no model at nowhere"),
        (["--workers", "2"], "--ray local"),
        (["--batch-size", "0"], "from 1"),
        (["--preset", "best"], "best"),
        (["--out", "no/out"], "no"),
    ],
)
def test_what_concerns_all_jobs_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    assert run(folder, "--out", folder / "out", "--prompt", "a dog", *changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_settings_of_the_command_hold_for_all_jobs_and_are_checked(folder: Path) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["batch", str(folder), "--out", str(folder / "out"), "--prompt", "a dog", "--steps", "0"])
    assert end.value.code == 2
    assert not (folder / "out").exists()
