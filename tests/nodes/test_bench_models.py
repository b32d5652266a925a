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
    command += ["--scenes", "1", "--groups", "one object", "--methods", "DAAM", "--jobs", "1"]
    done = subprocess.run([*command, "--seed-offset", "20000"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = [
        json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8")) for name in ("shipped", "flow")
    ]
    values = [each["methods"]["DAAM"]["groups"]["one object"]["iou"] for each in figures]
    assert len(set(values)) == 2  # the same picture and the same noise, and yet two models
    worst = json.loads((tmp_path / "worst.json").read_text(encoding="utf-8"))
    assert worst["DAAM"]["groups"]["one object"]["iou"] == min(values)
    assert "lowest IoU" in done.stdout
