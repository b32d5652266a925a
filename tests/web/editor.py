"""The editor's masks in a page of a real browser, from answers that Python gives."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Page

WEB = Path(__file__).resolve().parent.parent.parent / "web"

IMPORTS = """
    const { readAnswer } = await import("/answer.js");
    const { cut, wordsAt } = await import("/widget/mask.js");
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const text = (array) => btoa(array.reduce((letters, byte) => letters + String.fromCharCode(byte), ""));
"""
CUT = f"""async ([file, threshold]) => {{ {IMPORTS}
    const answer = readAnswer(bytes(file).buffer);
    const {{ binary, area }} = cut(answer, threshold);
    return {{ binary: text(binary), area, size: [answer.height, answer.width] }};
}}"""
WORDS_AT = f"""async ([file, x, y]) => {{ {IMPORTS} return wordsAt(readAnswer(bytes(file).buffer), x, y); }}"""


@dataclass
class BrowserMask:
    """What the browser made of an answer."""

    binary: NDArray[np.bool_]
    area: float


class Editor:
    """The editor's functions, in a page of a server that has the folder `WEB`."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def cut(self, answer: bytes, threshold: float) -> BrowserMask:
        mask = self.page.evaluate(CUT, [_text(answer), threshold])
        binary = np.frombuffer(base64.b64decode(mask["binary"]), bool).reshape(mask["size"])
        return BrowserMask(binary, mask["area"])

    def words_at(self, answer: bytes, x: float, y: float) -> list[tuple[int, float]]:
        words: list[dict[str, Any]] = self.page.evaluate(WORDS_AT, [_text(answer), x, y])
        return [(word["number"], word["value"]) for word in words]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
