"""Chromium, for the tests and measurements that need a browser."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--disable-gpu", "--disable-background-networking"]


@functools.cache
def why_no_browser() -> str:
    """What keeps a browser from starting, and how to change it; empty when nothing does."""
    if importlib.util.find_spec("playwright") is None:
        return 'the Python package playwright is not installed|Install the pack\'s extra "test" to run them.'
    if _place() is None:
        return "Chromium was not found|Install it (on Debian: apt-get install chromium) to run them."
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. As long as it is open, this thread cannot run another event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_place(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server on this machine that gives out the files of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


def _place() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)
