"""web/core in a page of a real browser, and records and pictures to give it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from instdiff_core.evidence import AttentionRecord
from instdiff_core.tokens import PromptWords, Word

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


def make_record(
    texts: tuple[str, ...], *, steps: int = 3, batch: int = 1, grid: tuple[int, int] = (16, 16),
    latent: tuple[int, int] = (32, 32), seed: int = 0,
) -> AttentionRecord:  # fmt: skip
    """A record of smooth random maps, as float16 leaves them."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(*shape: int, size: tuple[int, int]) -> torch.Tensor:
        coarse = torch.randn(*shape, 5, 5, generator=generator).flatten(0, -3)[:, None]
        fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
        fine = fine + 0.1 * torch.randn(fine.shape, generator=generator)
        return fine.reshape(*shape, *size)

    count = len(texts)
    words = PromptWords(tuple(Word(text, (i + 1,)) for i, text in enumerate(texts)), (0,), (count + 1,), count + 2)
    maps = smooth(steps, batch, 2 + count, size=grid).exp() * 0.02
    propagated = smooth(steps, batch, 3 + count, size=grid).exp()
    sigmas = tuple(np.geomspace(8, 0.1, steps).tolist())
    return AttentionRecord(maps.half(), propagated.half(), smooth(batch, 4, size=latent).half(), words, sigmas, 8)


def make_pictures(record: AttentionRecord, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures ``[count, H, W, 3]`` with edges, of the record's size."""
    generator = np.random.default_rng(seed)
    height, width = record.image_size
    pictures = np.empty((count, height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width] / 8
    for picture in pictures:
        picture[:] = generator.integers(0, 256, 3)
        for _ in range(6):
            y, x, radius = generator.uniform(0, (height / 8, width / 8, 10))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = generator.integers(0, 256, 3)
    noise = generator.normal(0, 4, pictures.shape)
    return (pictures + noise).clip(0, 255).astype(np.uint8)
