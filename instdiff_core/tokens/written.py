"""The words of a prompt as a person wrote them, and which stretch of the text each token spells."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

JOINERS = "-‐‑–'’._&@"
"""Punctuation that is part of a word where it stands between letters: t-shirt, frog's, long_hair, 1.5."""

EMBEDDING = "embedding:"
"""What the host's name of a textual-inversion embedding begins with, which may hold any punctuation but a comma."""

WITHOUT_BLANKS = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Scripts whose words have no blanks between them: kana, and the Han characters. Each token is a word there."""

REACH = 64
"""How many letters tokenizers may leave out in one place: the name of an embedding that is not there."""

STRAIGHT = str.maketrans("‘’“”", "''\"\"")
"""Quotation marks that tokenizers may straighten."""


@dataclass(frozen=True)
class Stretch:
    """A word of a text, or a character of one that is written without blanks: from `start` to before `stop`."""

    start: int
    stop: int
    without_blanks: bool = False


def find_stretches(text: str) -> Iterator[Stretch]:
    """The words of a text: letters, numbers and signs between blanks and punctuation, but for `JOINERS`."""
    embeddings = {match.start(): match.end() for match in re.finditer(rf"(?<!\S){EMBEDDING}[^\s,]+", text)}
    start: int | None = None
    place = 0
    while place < len(text):
        if place in embeddings:
            yield Stretch(place, embeddings[place])
            place = embeddings[place]
            continue
        if is_written_without_blanks(text[place]) or not _continues(text, place, start is not None):
            if start is not None:
                yield Stretch(start, place)
                start = None
            if is_written_without_blanks(text[place]):
                yield Stretch(place, place + 1, True)
        elif start is None:
            start = place
        place += 1
    if start is not None:
        yield Stretch(start, len(text))


def split_letters(text: str) -> list[str]:
    """What of a text two spellings of a word have in common: its letters in small, parted at all punctuation.

    Each character of a script without blanks stands alone.
    """
    parted = "".join(
        " " if is_punctuation(character) else f" {character} " if is_written_without_blanks(character) else character
        for character in unicodedata.normalize("NFC", text).casefold()
    )
    return parted.split()


def is_punctuation(text: str) -> bool:
    """Whether a text is all punctuation."""
    return all(unicodedata.category(character).startswith("P") for character in text)


def is_written_without_blanks(character: str) -> bool:
    """Whether a character is of a script without blanks between its words."""
    return any(low <= ord(character) <= high for low, high in WITHOUT_BLANKS)


def _is_letter(character: str) -> bool:
    return not character.isspace() and not is_punctuation(character)


def _continues(text: str, place: int, inside: bool) -> bool:
    """Whether a character belongs to a word that begins there, or, `inside` one, before it."""
    if _is_letter(text[place]):
        return True
    following = text[place + 1 : place + 2]
    return inside and text[place] in JOINERS and bool(following) and _is_letter(following)


class Alignment:
    """Finds one piece of a text after the other, as a tokenizer gives them.

    It need not know what a tokenizer makes of a text: case, width, blanks and quotation marks are ignored, and
    what it left out is passed over. `text` is in Unicode's form C.
    """

    def __init__(self, text: str) -> None:
        letters = [(letter, place) for place, character in enumerate(text) for letter in _fold(character)]
        self._letters = "".join(letter for letter, _ in letters)
        self._places = [place for _, place in letters]
        self._next = 0

    def find(self, piece: str) -> tuple[int, int]:
        """The stretch of the text that a piece spells, first to before last.

        What is not found there spells the character that is next: tokenizers have a piece for what they do not know.
        """
        letters = _fold(piece)
        if not letters or self._next == len(self._letters):
            return 0, 0
        first = self._letters.find(letters, self._next, self._next + len(letters) + REACH)
        if first < 0:
            return self._places[self._next], self._places[self._next] + 1
        self._next = first + len(letters)
        return self._places[first], self._places[self._next - 1] + 1

    def find_embedding(self, stretches: Iterable[Stretch]) -> tuple[int, int]:
        """The stretch that names the next embedding; an empty one where the text names no more."""
        first = self._letters.find(EMBEDDING, self._next)
        if first < 0:
            return 0, 0
        start = self._places[first]
        stop = next((stretch.stop for stretch in stretches if stretch.start == start), start)
        while self._next < len(self._places) and self._places[self._next] < stop:
            self._next += 1
        return start, stop


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text.translate(STRAIGHT)).casefold()
    return "".join(folded.split())
