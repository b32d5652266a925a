"""A page with the JavaScript under web/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import served
from tests.web.editor import WEB, Editor

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def editor(browser: Browser) -> Iterator[Editor]:
    with served(WEB) as address:
        page = browser.new_page()
        page.goto(f"{address}/widget/")
        yield Editor(page)
        page.close()
