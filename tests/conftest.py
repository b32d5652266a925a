"""Where ComfyUI and the browser are, and what happens to the tests that need them when they are not there.

Everything under tests/nodes and tests/live has the marker `host`, and every test that uses the
fixture `browser` the marker `browser`. Without ComfyUI, or without Chromium, these tests are
skipped, and the last lines of the output say so. Their modules must therefore import the host's
modules, and playwright, inside fixtures and tests, never at the top.

The repository is not on ``sys.path`` while tests run: its folder `nodes` would hide ComfyUI's
module of that name. `instdiff_core` is imported here first, and stays importable.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST_TESTS = (ROOT / "tests" / "nodes", ROOT / "tests" / "live")

sys.path.insert(0, str(ROOT))
import instdiff_core  # noqa: E402
from tests.browser import chromium, why_no_browser  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window. Its event loop is this thread's, where other modules run loops of their own."""
    with chromium() as browser:
        yield browser


NEEDS: dict[str, Callable[[], str]] = {"host": _why_no_host, "browser": why_no_browser}
"""By marker: what keeps its tests from running, and how to change it."""

ORDER = ("live", "nodes", "web", "core")
"""The folders with the longest modules first: a worker of pytest-xdist that has one left keeps the others waiting."""

LONGEST = ("test_install.py", "test_batch_on_ray.py", "test_training.py", "test_with_other_patches.py")
"""Modules that come before all others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(folder in item.path.parents for folder in HOST_TESTS):
            item.add_marker(pytest.mark.host)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
        missing = next((name for name in NEEDS if item.get_closest_marker(name) and NEEDS[name]()), None)
        if missing:
            item.add_marker(pytest.mark.skip(reason=NEEDS[missing]().split("|")[0]))
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(ROOT / "tests").parts[0]))
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The last lines: pytest's own count of skipped tests does not say what was missed."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", [])] if reporter else []
    for why, advice in (need().split("|") for need in NEEDS.values() if need()):
        if count := sum(reason.endswith(why) for reason in reasons):
            tests = "1 test that needs it was" if count == 1 else f"{count} tests that need it were"
            reporter.write_line(f"{why[0].upper()}{why[1:]}: {tests} skipped. {advice}", yellow=True)
