"""Where ComfyUI is, and what happens to the tests that need it when it is not there.

Everything under tests/nodes and tests/live has the marker `host`. Without ComfyUI these tests are
skipped, and the last line of the output says so. Their modules must therefore import the host's
modules inside fixtures and tests, never at the top.

The repository is not on ``sys.path`` while tests run: its folder `nodes` would hide ComfyUI's
module of that name. `instdiff_core` is imported here first, and stays importable.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST_TESTS = (ROOT / "tests" / "nodes", ROOT / "tests" / "live")

sys.path.insert(0, str(ROOT))
import instdiff_core  # noqa: E402

assert Path(instdiff_core.__file__).parent.parent == ROOT, f"the tests would run {instdiff_core.__file__}"
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@functools.cache
def _host_place() -> Path:
    """COMFYUI_PATH, else the ComfyUI that this pack is installed in, else ~/comfy/ComfyUI."""
    if given := os.environ.get("COMFYUI_PATH"):
        return Path(given).expanduser().resolve()
    unresolved = Path(os.environ.get("PWD", "")) if Path(os.environ.get("PWD", "")).resolve() == ROOT else ROOT
    for root in (ROOT, unresolved):
        if root.parent.name == "custom_nodes":
            return root.parent.parent
    return Path.home() / "comfy" / "ComfyUI"


@functools.cache
def _why_no_host() -> str:
    """What keeps host tests from running, and how to change it; empty when nothing does."""
    place = _host_place()
    if not (place / "main.py").is_file() or not (place / "comfy").is_dir():
        return f"ComfyUI was not found at {place}|Set COMFYUI_PATH to its folder to run them."
    essential = (place / "requirements.txt").read_text(encoding="utf-8").split("#non essential")[0]
    names = re.findall(r"^[A-Za-z0-9][\w.-]*", essential, re.MULTILINE)
    if missing := [name for name in names if not _installed(name)]:
        return (
            f"ComfyUI at {place} needs packages that this Python does not have ({', '.join(missing)})"
            f"|Install its requirements.txt, or run pytest with ComfyUI's own Python."
        )
    return ""


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def host_path() -> Path:
    """The folder of the ComfyUI to test with; skips the calling test where there is none."""
    if why := _why_no_host():
        pytest.skip(why.split("|")[0])
    return _host_place()


@pytest.fixture(scope="session", name="host_path")
def host_path_fixture() -> Path:
    """`host_path()` as a fixture."""
    return host_path()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if any(folder in item.path.parents for folder in HOST_TESTS):
            item.add_marker(pytest.mark.host)
        if item.get_closest_marker("host") and (why := _why_no_host()):
            item.add_marker(pytest.mark.skip(reason=why.split("|")[0]))
            config.stash[SKIPPED] += 1


SKIPPED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPPED] = 0


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line: pytest's own count of skipped tests does not say what was missed."""
    count = config.stash.get(SKIPPED, 0)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if count and reporter:
        why, advice = _why_no_host().split("|")
        tests = "1 test that needs it was" if count == 1 else f"{count} tests that need it were"
        reporter.write_line(f"{why}: {tests} skipped. {advice}", yellow=True)
