"""Thousands of broken workflows for a live server; prints what it answered.

    python -m tests.bench.fuzz [--cases N] [--seed N] [--host FOLDER]

The cases are those of tests/live/fuzz.py, of which the tests run forty. Exits with 1 when
one was answered badly, a file was written where none belongs, or KSampler gives another picture afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, host_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--host", type=Path, help="the ComfyUI to test with; default: the one that the tests use")
    options = parser.parse_args()
    place = options.host.expanduser().resolve() if options.host else host_path()
    chosen = {"INSTDIFF_FUZZ_CASES": options.cases, "INSTDIFF_FUZZ_SEED": options.seed, "COMFYUI_PATH": place}
    test = f"{ROOT / 'tests' / 'live' / 'test_fuzz.py'}::test_broken_workflows_get_a_message_and_leave_nothing_behind"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", test]
    environment = {**os.environ, **{name: str(value) for name, value in chosen.items()}}
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
