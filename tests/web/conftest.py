"""A page with the JavaScript under web/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import served
from tests.web.core import Core

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WEB = Path(__file__).resolve().parent.parent.parent / "web"


@pytest.fixture(scope="module")
def core(browser: Browser) -> Iterator[Core]:
    with served(WEB) as address:
        page = browser.new_page()
        page.goto(f"{address}/core/")
        yield Core(page)
        page.close()
