"""The editor's masks in a page of a real browser, from answers that Python gives."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instdiff_core.options import MaskShape

if TYPE_CHECKING:
    from playwright.sync_api import Page

WEB = Path(__file__).resolve().parent.parent.parent / "web"

IMPORTS = """
    const { readAnswer } = await import("/answer.js");
    const { cut, wordsAt } = await import("/widget/mask.js");
    const { correct, readCorrections } = await import("/widget/corrections.js");
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const text = (array) => btoa(array.reduce((letters, byte) => letters + String.fromCharCode(byte), ""));
"""
CUT = f"""async ([file, threshold, shape]) => {{ {IMPORTS}
    const answer = readAnswer(bytes(file).buffer);
    return {{ binary: text(cut(answer, threshold, shape)), size: [answer.height, answer.width] }};
}}"""
SHAPED = """async ([pixels, width, shape]) => {
    const { shaped } = await import("/widget/shape.js");
    return [...shaped(Uint8Array.from(pixels), width, shape)];
}"""
CORRECTED = f"""async ([pixels, width, corrections]) => {{ {IMPORTS}
    const mask = Uint8Array.from(pixels);
    correct(mask, width, readCorrections(corrections)[0] ?? []);
    return [...mask];
}}"""
READ = f"""async (corrections) => {{ {IMPORTS} return readCorrections(corrections) !== null; }}"""
WORDS_AT = f"""async ([file, x, y]) => {{ {IMPORTS} return wordsAt(readAnswer(bytes(file).buffer), x, y); }}"""


Mask = NDArray[np.bool_]
PLAIN = MaskShape()


class Editor:
    """The editor's functions, in a page of a server that has the folder `WEB`."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def cut(self, answer: bytes, threshold: float, shape: MaskShape = PLAIN) -> Mask:
        mask = self.page.evaluate(CUT, [_text(answer), threshold, _to_json(shape)])
        return np.frombuffer(base64.b64decode(mask["binary"]), bool).reshape(mask["size"])

    def shape(self, mask: Mask, shape: MaskShape) -> Mask:
        return self._change(mask, SHAPED, _to_json(shape))

    def correct(self, mask: Mask, corrections: str) -> Mask:
        return self._change(mask, CORRECTED, corrections)

    def reads(self, corrections: str) -> bool:
        """Whether these are corrections."""
        return self.page.evaluate(READ, corrections)

    def _change(self, mask: Mask, script: str, how: Any) -> Mask:
        pixels = self.page.evaluate(script, [mask.astype(int).ravel().tolist(), mask.shape[1], how])
        return np.array(pixels, bool).reshape(mask.shape)

    def words_at(self, answer: bytes, x: float, y: float) -> list[tuple[int, float]]:
        words: list[dict[str, Any]] = self.page.evaluate(WORDS_AT, [_text(answer), x, y])
        return [(word["number"], word["value"]) for word in words]


def _to_json(shape: MaskShape) -> dict[str, Any]:
    return {"fillHoles": shape.fill_holes, "smooth": shape.smooth, "grow": shape.grow}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
