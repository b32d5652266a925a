"""What ``python -m instdiff_core batch --ray`` promises, on a real cluster on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow.parquet
import pytest
from PIL import Image

import instdiff_core
from instdiff_core import __main__ as command_line
from instdiff_core.mini.scenes import compose

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[batch]'")

SIDES, PROMPTS = (64, 96), ("a dog", "a frog")
GOOD = [f"job {number}" for number in range(16)]
BAD = ["no picture", "no words", "cut", "empty", "huge", "mask size", "../out"]
SETTINGS = ["--steps", "2", "--batch-size", "2"]
PATIENCE = 600

CLUSTER = """
import sys, ray
ray.init("local", num_cpus=3, num_gpus=0, object_store_memory=100 * 2**20, include_dashboard=False)
print("at", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
"""Two workers, a CPU for files, and an end when whoever started it ends."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jobs.jsonl: good jobs with pictures of two sizes, and hostile ones."""
    path = tmp_path_factory.mktemp("jobs")
    for side in SIDES:
        Image.fromarray(compose(np.random.default_rng(side), ["cat"], "grass", size=side)[0]).save(path / f"{side}.png")
    content = (path / "96.png").read_bytes()
    (path / "cut.png").write_bytes(content[: len(content) // 2])
    (path / "empty.png").touch()
    Image.new("L", (10_000, 10_000)).save(path / "huge.png")
    rows: list[dict[str, Any]] = [
        {"id": name, "picture": f"{SIDES[number % 2]}.png", "prompt": PROMPTS[number // 2 % 2], "seed": number}
        for number, name in enumerate(GOOD)
    ]
    changes: list[dict[str, Any]] = [
        {"picture": "nowhere.png"},
        {"prompt": " "},
        {"picture": "cut.png"},
        {"picture": "empty.png"},
        {"picture": "huge.png"},
        {"mask": "64.png"},
        {},
    ]
    rows += [
        {"id": name, "picture": "96.png", "prompt": "a dog", **change}
        for name, change in zip(BAD, changes, strict=True)
    ]
    (path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The results of a run without Ray."""
    with pytest.raises(SystemExit) as end:
        command_line.main(["batch", str(folder / "jobs.jsonl"), "--out", str(folder / "alone"), *SETTINGS])
    assert end.value.code == 1
    return folder / "alone"


@dataclass(frozen=True)
class Cluster:
    """Its address, and the process that it ends with."""

    address: str
    process: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """The processes that hold the model."""
        return [child for child in self.process.children(recursive=True) if "_Worker" in command_of(child)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that was there before the batch."""
    with (
        TemporaryDirectory(prefix="ray", dir="/tmp") as logs,  # a short path: there are sockets in it
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env={**environment(), "RAY_TMPDIR": logs},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        address = next(line.split()[1] for line in process.stdout if line.startswith("at "))
        cluster = Cluster(address, psutil.Process(process.pid))
        yield cluster
        family = cluster.process.children(recursive=True)
        process.stdin.close()
        for straggler in psutil.wait_procs(family, timeout=60)[1]:
            with suppress(psutil.NoSuchProcess):
                straggler.kill()


def environment() -> dict[str, str]:
    """That of the command and of the cluster: the CPU, and a token of their own."""
    path = str(Path(instdiff_core.__file__).parent.parent)
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **ray}


@pytest.fixture
def start(folder: Path, cluster: Cluster) -> Iterator[Start]:
    """Starts a batch on the cluster into a folder; all that it started ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start_batch(out: Path, workers: int) -> subprocess.Popen[str]:
        command = ["batch", folder / "jobs.jsonl", "--out", out, "--ray", cluster.address, "--workers", workers]
        process = subprocess.Popen(
            [sys.executable, "-m", "instdiff_core", *map(str, command), *SETTINGS],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_batch
    for process in started:
        process.kill()
        process.wait()


def command_of(process: psutil.Process) -> str:
    """Empty for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def edits_in(out: Path) -> dict[str, bytes]:
    """Pictures and masks of a batch."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in out.glob("*/*.png")}


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The table of results, without seconds."""
    return [
        {name: value for name, value in row.items() if name != "timings"}
        for row in pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    ]


def noted_in(out: Path) -> list[str]:
    """The edited pictures that a run, which is not at its end, has noted as done."""
    journal = out / "results.jsonl"
    lines = journal.read_text(encoding="utf-8").split("\n")[:-1] if journal.exists() else []
    return [row["edited"] for row in map(json.loads, filter(None, lines)) if row["edited"]]


def wait_for_edits(process: subprocess.Popen[str], out: Path, more_than: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(noted_in(out)) <= more_than:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was edited"
        time.sleep(0.02)


def test_after_a_killed_run_and_a_killed_worker_each_job_is_there_once_as_without_ray(
    folder: Path, alone: Path, start: Start, cluster: Cluster
) -> None:
    before, out = {*os.listdir(folder), "out"}, folder / "out"
    process = start(out, 1)
    wait_for_edits(process, out, 0)
    process.kill()
    process.communicate()
    done = {name: (out / name).stat().st_mtime_ns for name in noted_in(out)}
    assert len(done) < len(GOOD)

    process = start(out, 2)
    wait_for_edits(process, out, len(done))
    worker, _ = cluster.workers()
    worker.kill()
    assert len(noted_in(out)) < len(GOOD)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert output.splitlines()[-1] == f"jobs: {len(GOOD)} done, {len(BAD)} failed: {out / 'results.parquet'}"
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert edits_in(out) == edits_in(alone)
    assert rows_in(out) == rows_in(alone)
    assert [(row["id"], row["error"] is None) for row in rows_in(out)] == [
        *((name, True) for name in GOOD),
        *((name, False) for name in BAD),
    ]
    assert set(os.listdir(out)) == {".lock", "edited", "masks", "results.parquet"}
    assert set(os.listdir(folder)) == before


def test_where_there_is_no_cluster_one_line_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "no cluster"
    with pytest.raises(SystemExit) as end:
        command_line.main(["batch", str(folder), "--prompt", "a dog", "--out", str(out), "--ray", "nowhere.invalid:1"])
    assert end.value.code == 2
    assert "no Ray cluster can be had at nowhere.invalid:1" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
