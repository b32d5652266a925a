"""The mask benchmark runs on all of its models with one command, those in ComfyUI among them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from tests.conftest import ROOT


@pytest.mark.one_host
def test_one_command_measures_every_model_and_names_the_worst(host_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.masks", "--out", str(tmp_path), "--models", "shipped,flow"]
    command += ["--scenes", "1", "--groups", "one object", "--methods", "default,DAAM", "--jobs", "1"]
    done = subprocess.run([*command, "--seed-offset", "20000"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = {
        name: json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))["methods"]
        for name in ("shipped", "flow")
    }
    worst = json.loads((tmp_path / "worst.json").read_text(encoding="utf-8"))
    for method in ("default", "DAAM"):
        values = [methods[method]["groups"]["one object"]["iou"] for methods in figures.values()]
        assert worst[method]["groups"]["one object"]["iou"] == min(values)
    # the same picture and the same noise, and yet two models
    assert len({methods["DAAM"]["overall"]["iou"] for methods in figures.values()}) == 2
    assert "lowest IoU" in done.stdout
