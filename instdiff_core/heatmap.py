"""Where each word of a prompt acts, as pictures to look at."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .evidence import FIRST_PROPAGATED, Evidence
from .maps import rescale_to_unit, resize
from .options import PRESETS
from .refine import refine
from .tokens import PromptWords

COLORMAPS = ("viridis", "cividis", "magma", "inferno")
"""Perceptually uniform, brighter where there is more, and told apart by every kind of sight."""

DARK, LIGHT = (28, 28, 28), (240, 240, 240)

SMALLEST = 12
"""Pixels of letters that are still read easily."""

ACROSS = 24
"""How many such letters, as wide as high, the shorter side of a picture holds."""


def draw_heatmaps(
    evidence: Evidence,
    words: PromptWords,
    size: tuple[int, int],
    colormap: str,
    picture: Tensor | None = None,
    opacity: float = 1.0,
) -> Tensor:
    """A picture of each word's place, ``[batch * words, H + caption, W, 3]`` float32 in 0..1.

    Picture by picture of the batch, the words in prompt order. Each shows in the colours of
    `colormap` how much a place is the word's, from 0 to the word's own most, 1: what the default
    preset makes its mask of when the word is named. `picture` ``[batch, 3, H, W]`` in 0..1 shows
    through by 1 - `opacity`. Below stand the word with its number, whether it is the index word,
    and the legend. Raises ``ValueError`` for a prompt without words.
    """
    index = refine(evidence, words, PRESETS["default"]).roles.index.tolist()
    places = rescale_to_unit(evidence.propagated[:, FIRST_PROPAGATED:])
    (batch, count), (height, width) = places.shape[:2], size
    colours = load_colormap(colormap)
    strip = _Strip(width, max(SMALLEST, min(size) // ACROSS))
    pictures = torch.empty(batch, count, height + 2 * strip.height, width, 3)
    # word by word: the batch itself is the largest thing in memory
    for row in range(batch):
        for number, text in enumerate(words.texts):
            heat = colours[(resize(places[row : row + 1, number], size)[0] * (len(colours) - 1)).round().long()]
            if picture is not None:
                heat = torch.lerp(picture[row].movedim(0, -1).to(heat), heat, opacity)
            shown = pictures[row, number]
            shown[:height] = heat
            shown[height : height + strip.height] = strip.caption(f"{number + 1}. {text}", index[row] == number)
    pictures[:, :, height + strip.height :] = strip.legend(colours)
    return pictures.flatten(0, 1)


def load_colormap(name: str) -> Tensor:
    """The colours of one of `COLORMAPS` from 0 to 1, ``[256, 3]`` float32.

    Raises ``ValueError`` where the package cmap is not installed: only these pictures need it.
    """
    try:
        from cmap import Colormap
    except ImportError as error:
        raise ValueError(
            "the colours come from the Python package cmap, which is not installed: install the pack with ComfyUI "
            "Manager, or run 'pip install -r requirements.txt' in its folder with ComfyUI's Python"
        ) from error
    return torch.from_numpy(Colormap(name).lut(256)[:, :3]).float()


class _Strip:
    """Lines below a picture, ``[height, width, 3]`` float32 in 0..1, in letters of a size in pixels."""

    def __init__(self, width: int, letters: int) -> None:
        self._width, self._margin = width, letters // 2
        self._font = ImageFont.load_default(letters)
        self.height = letters * 3 // 2

    def caption(self, text: str, index_word: bool) -> Tensor:
        """A word; the index word is dark on light, and says so. What is too long is cut."""
        paper, ink, mark = (LIGHT, DARK, " (index word)") if index_word else (DARK, LIGHT, "")
        text = self._spelled(text[: self._width])
        room = self._width - 2 * self._margin - self._font.getlength(mark)
        if self._font.getlength(text) > room:
            while text and self._font.getlength(f"{text}…") > room:
                text = text[:-1]
            text += "…"
        return self._line([(self._margin, "l", text + mark)], paper, ink)

    def legend(self, colours: Tensor) -> Tensor:
        """The colours of ``[N, 3]`` side by side, between 0 and 1."""
        line = self._line([(self._margin, "l", "0"), (self._width - self._margin, "r", "1")], DARK, LIGHT)
        ends = int(2 * self._margin + self._font.getlength("0"))
        across = torch.linspace(0, len(colours) - 1, max(0, self._width - 2 * ends)).round().long()
        line[self.height // 4 : self.height - self.height // 4, ends : ends + len(across)] = colours[across]
        return line

    def _line(self, texts: list[tuple[int, str, str]], paper: tuple[int, ...], ink: tuple[int, ...]) -> Tensor:
        """A line with texts at their place, by their left (l) or right (r) end."""
        image = Image.new("RGB", (self._width, self.height), paper)
        for place, side, text in texts:
            ImageDraw.Draw(image).text((place, self.height / 2), text, ink, self._font, anchor=f"{side}m")
        return torch.from_numpy(np.array(image)).float() / 255

    def _spelled(self, text: str) -> str:
        """The text, with a code in place of every letter that the font does not hold."""
        missing = bytes(self._font.getmask("\uffff"))

        def held(letter: str) -> bool:
            return letter.isprintable() and bytes(self._font.getmask(letter)) != missing

        return "".join(letter if held(letter) else letter.encode("unicode_escape").decode() for letter in text)
