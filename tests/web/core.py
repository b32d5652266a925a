"""web/core in a page of a real browser."""

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

OPEN = """async ({ record, pictures, size }) => {
    const { readRecord } = await import("/core/evidence.js");
    const { Refinery } = await import("/core/refine.js");
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    window.record = readRecord(bytes(record).buffer);
    const images = pictures.map((each) => new ImageData(new Uint8ClampedArray(bytes(each)), size[1], size[0]));
    window.refinery = new Refinery(window.record, images);
    const { words, steps, batch, imageSize, settings } = window.record;
    return { words, steps, batch, imageSize, settings };
}"""
REFINE = """([choice, picture]) => {
    const text = (array) => {
        const bytes = new Uint8Array(array.buffer);
        let letters = "";
        for (const byte of bytes) letters += String.fromCharCode(byte);
        return btoa(letters);
    };
    const { soft, binary, weights, ...rest } = window.refinery.refine(choice, picture);
    return { soft: text(soft), binary: text(binary), weights: [...weights], ...rest };
}"""


@dataclass
class BrowserMask:
    """What the browser made of a record."""

    soft: NDArray[np.float32]
    binary: NDArray[np.bool_]
    index: int
    weights: list[int]
    fits: bool
    area: float
    threshold: float
    words: list[str]


class Core:
    """web/core in a page of a server that has it. What it throws is an `Error` of playwright, with its sentence."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, file: bytes, pictures: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Read a record, with pictures ``[0, 1 or B, H, W, 3]``; what the record tells of itself."""
        colours = np.zeros((0, 1, 1, 3), np.uint8) if pictures is None else pictures
        opaque = np.concatenate([colours, np.full_like(colours[..., :1], 255)], -1)
        given = {"record": _text(file), "pictures": [_text(each.tobytes()) for each in opaque]}
        return self.page.evaluate(OPEN, {**given, "size": opaque.shape[1:3]})

    def refine(
        self, threshold: float = 0, words: tuple[str, ...] = (), steps: int = 0, picture: int = 0
    ) -> BrowserMask:
        choice = {"threshold": threshold, "words": words, "steps": steps}
        found = self.page.evaluate(REFINE, [choice, picture])
        size = found.pop("height"), found.pop("width")
        soft, binary = (base64.b64decode(found.pop(name)) for name in ("soft", "binary"))
        return BrowserMask(
            np.frombuffer(soft, np.float32).reshape(size), np.frombuffer(binary, bool).reshape(size), **found
        )

    def words_at(self, x: float, y: float, steps: int = 0, picture: int = 0) -> list[tuple[int, float]]:
        found = self.page.evaluate("place => window.refinery.wordsAt(...place)", [x, y, steps, picture])
        return [(each["number"], each["value"]) for each in found]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
