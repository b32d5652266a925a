"""The editor's masks in a page of a real browser, from answers that Python gives."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instdiff_core.arrays import Mask
from instdiff_core.options import MaskShape

if TYPE_CHECKING:
    from playwright.sync_api import Page

WEB = Path(__file__).resolve().parent.parent.parent / "web"

IMPORTS = """
    const { readAnswer } = await import("/answer.js");
    const { cut, join, keepInside, wordsAt } = await import("/widget/mask.js");
    const { clean } = await import("/widget/components.js");
    const { shaped } = await import("/widget/shape.js");
    const { correct, readCorrections } = await import("/widget/corrections.js");
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const text = (array) => btoa(array.reduce((letters, byte) => letters + String.fromCharCode(byte), ""));
"""
CUT = f"""async ([file, threshold, shape]) => {{ {IMPORTS}
    const answer = readAnswer(bytes(file).buffer);
    const masks = cut(answer, threshold, shape);
    masks.forEach((mask, layer) => keepInside(mask, answer.layers[layer].noiseMask));
    masks.forEach((mask, layer) => keepInside(mask, answer.layers[layer].own));
    return {{ binary: text(join(masks)), size: [answer.height, answer.width] }};
}}"""
SHAPED = f"""async ([pixels, width, shape]) => {{ {IMPORTS} return text(shaped(bytes(pixels), width, shape)); }}"""
CLEANED = f"""async ([pixels, width, least]) => {{ {IMPORTS}
    const mask = bytes(pixels);
    clean(mask, width, least);
    return text(mask);
}}"""
CORRECTED = f"""async ([pixels, width, corrections]) => {{ {IMPORTS}
    const mask = bytes(pixels);
    correct(mask, width, readCorrections(corrections)[0] ?? []);
    return text(mask);
}}"""
READ = f"""async (corrections) => {{ {IMPORTS} return readCorrections(corrections) !== null; }}"""
WORDS_AT = f"""async ([file, x, y]) => {{ {IMPORTS} return wordsAt(readAnswer(bytes(file).buffer), x, y); }}"""


PLAIN = MaskShape()


class Editor:
    """The editor's functions, in a page of a server that has the folder `WEB`."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def cut(self, answer: bytes, threshold: float, shape: MaskShape = PLAIN) -> Mask:
        mask = self.page.evaluate(CUT, [_text(answer), threshold, _to_json(shape)])
        return _mask(mask["binary"], mask["size"])

    def shape(self, mask: Mask, shape: MaskShape) -> Mask:
        return self._change(mask, SHAPED, _to_json(shape))

    def clean(self, mask: Mask, least: float) -> Mask:
        return self._change(mask, CLEANED, least)

    def correct(self, mask: Mask, corrections: str) -> Mask:
        return self._change(mask, CORRECTED, corrections)

    def reads(self, corrections: str) -> bool:
        """Whether these are corrections."""
        return self.page.evaluate(READ, corrections)

    def _change(self, mask: Mask, script: str, how: Any) -> Mask:
        pixels = self.page.evaluate(script, [_text(mask.tobytes()), mask.shape[1], how])
        return _mask(pixels, mask.shape)

    def words_at(self, answer: bytes, x: float, y: float) -> list[tuple[int, float]]:
        words: list[dict[str, Any]] = self.page.evaluate(WORDS_AT, [_text(answer), x, y])
        return [(word["number"], word["value"]) for word in words]


def _to_json(shape: MaskShape) -> dict[str, Any]:
    return {"fillHoles": shape.fill_holes, "smooth": shape.smooth, "grow": shape.grow}


def _mask(pixels: str, size: Sequence[int]) -> Mask:
    return np.frombuffer(base64.b64decode(pixels), bool).reshape(size)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
