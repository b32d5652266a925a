"""How tokenizers spell: the bytes of the text behind each piece of a vocabulary, a class for each family."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Protocol

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
"""The bytes that byte-level BPE writes as the character of that number; the others as those from 256 on, in order."""

BYTES = {chr(byte): byte for byte in PRINTABLE}
BYTES |= {chr(256 + number): byte for number, byte in enumerate(sorted({*range(256)}.difference(PRINTABLE)))}


class Spelling(Protocol):
    """A family of tokenizers."""

    counts_from_end: bool
    """Whether what comes before the prompt may be longer than it was when the words were counted (`PromptWords`)."""

    def spell(self, piece: str) -> bytes:
        """The text of a piece of the vocabulary, UTF-8, which may be a part of a character only."""
        ...


class ByteLevel:
    """Byte-level BPE (Qwen, Mistral, Llama): each character of a piece is a byte, Ġ is the blank before a word.

    These are the tokenizers of language models, whose prompts stand in a template that may hold pictures.
    """

    counts_from_end = True

    def spell(self, piece: str) -> bytes:
        return b"".join(bytes([BYTES[character]]) if character in BYTES else character.encode() for character in piece)


class Clip:
    """CLIP: byte-level too, with </w> at the end of a word."""

    counts_from_end = False

    def spell(self, piece: str) -> bytes:
        word = piece.removesuffix("</w>")
        return ByteLevel().spell(word) + (b"" if word == piece else b" ")


class SentencePiece:
    """SentencePiece (T5, UMT5, Gemma): ▁ is the blank before a word, and ``<0xE7>`` a byte."""

    counts_from_end = False

    def spell(self, piece: str) -> bytes:
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(byte[1], 16)])
        return piece.replace("▁", " ").encode()


FAMILIES: dict[str, Spelling] = {"the</w>": Clip(), "▁the": SentencePiece(), "Ġthe": ByteLevel()}
"""By how they write the most common word."""


def find_spelling(pieces: Container[str]) -> Spelling | None:
    """The family of a vocabulary; None for one that is of none."""
    return next((family for piece, family in FAMILIES.items() if piece in pieces), None)
