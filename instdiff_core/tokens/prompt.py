"""Finding the words in the tokens of a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .spelling import Clip, Spelling
from .words import PromptWords, Word

CHARACTER = 4
"""The most bytes of a character in UTF-8."""

QUOTES = '"“”„«»()[]{}'
"""What tokenizers join to a letter, and is no part of a word."""

WITHOUT_BLANKS = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Scripts whose words have no blanks between them: kana, and the Han characters. Each token is a word there."""


class Tokenizer(Protocol):
    """The part of transformers' ``CLIPTokenizer`` that is needed; the host's tokenizers wrap one."""

    eos_token_id: int

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...


@dataclass
class _Token:
    """A token at its position in the context: its text, or the name of the embedding whose vector it is."""

    position: int
    text: bytes | None
    embedding: Any = None


@dataclass
class _Unit:
    """Whole characters, and the positions of the tokens that spell them."""

    text: str
    positions: tuple[int, ...]


def prompt_words(chunks: Sequence[Sequence[Any]], tokenizer: Tokenizer) -> PromptWords:
    """The words of a CLIP prompt, which is cut into chunks: start token, up to 75 tokens, end token, pads.

    The chunks stand side by side in the context, so that token `i` of chunk `c` is at position
    ``c * len(chunk) + i``. They hold ids as transformers gives them, or the host's tuples ``(id or
    embedding, weight[, word id])``. Sub-words are joined to words, the vectors of one
    textual-inversion embedding by their word id. Punctuation is no word. An empty prompt has none.
    Raises ``ValueError`` for no chunks or chunks of different lengths.
    """
    if not chunks or len({len(chunk) for chunk in chunks}) != 1:
        raise ValueError("the prompt has no tokens, or chunks of different lengths")
    length = len(chunks[0])
    words: list[Word] = []
    start: list[int] = []
    end: list[int] = []
    for number, chunk in enumerate(chunks):
        offset = number * length
        start.append(offset)
        ids = [_id(entry) for entry in chunk]
        stop = next((i for i, token in enumerate(ids) if i and token == tokenizer.eos_token_id), length)
        if stop < length:
            end.append(offset + stop)
        pieces = {token: tokenizer.convert_ids_to_tokens([token])[0] for token in ids[1:stop] if token is not None}
        words += _words(_tokens(chunk[1:stop], offset + 1, pieces, Clip()))
    return PromptWords(tuple(words), tuple(start), tuple(end), len(chunks) * length)


def find_framed_words(
    tokens: Sequence[Any], empty: Sequence[Any], pieces: Mapping[int, str], spelling: Spelling, pad: int, length: int
) -> PromptWords:
    """The words of a prompt that stands in a frame: a template, or only an end token.

    `tokens` and `empty` are the host's, as of `prompt_words`, of the prompt and of the empty prompt:
    what both begin and end with is the frame. `pieces` is the vocabulary, `pad` the id of the token
    that fills up, at either end. `length` is that of the context; what it is shorter than the tokens
    was cut off its beginning. There is no start token: that of a language model does not attend to
    pictures. The end token is the first of the frame behind the prompt.
    """
    dropped = len(tokens) - length
    first, last = _stripped(tokens, pad)
    frame = [_id(entry) for entry in empty[slice(*_stripped(empty, pad))]]
    ids = [_id(entry) for entry in tokens[first:last]]
    before = 0
    while before < min(len(frame), len(ids)) and frame[before] == ids[before] is not None:
        before += 1
    stop = last - (len(frame) - before)
    words = _words(_tokens(tokens[first + before : stop], first + before - dropped, pieces, spelling))
    end = (stop - dropped,) if stop < len(tokens) else ()
    return PromptWords(tuple(words), (), end, length, spelling.counts_from_end)


def _stripped(tokens: Sequence[Any], pad: int) -> tuple[int, int]:
    """Where `tokens` begin and end without the pads around them."""
    ids = [_id(entry) for entry in tokens]
    first = next((number for number, token in enumerate(ids) if token != pad), len(ids))
    last = next((number for number in range(len(ids), first, -1) if ids[number - 1] != pad), first)
    return first, last


def _id(entry: Any) -> int | None:
    """The id of a token; None for an embedding."""
    if isinstance(entry, (tuple, list)):
        return int(entry[0]) if isinstance(entry[0], int) else None
    return int(entry)


def _tokens(entries: Iterable[Any], first: int, pieces: Mapping[int, str], spelling: Spelling) -> Iterator[_Token]:
    for position, entry in enumerate(entries, first):
        token = _id(entry)
        if token is None:
            yield _Token(position, None, entry[2] if len(entry) > 2 else None)
        else:
            yield _Token(position, spelling.spell(pieces[token]))


def _words(tokens: Iterable[_Token]) -> list[Word]:
    """The words that tokens spell: between blanks and commas, without the punctuation around them."""
    words: list[Word] = []
    units: list[_Unit] = []

    def close() -> None:
        while units and _is_punctuation(units[-1].text):
            units.pop()
        while units and _is_punctuation(units[0].text):
            units.pop(0)
        text = "".join(unit.text for unit in units).replace(",", "").strip()
        text = text.strip(QUOTES) or text
        if text:
            words.append(Word(text, tuple(position for unit in units for position in unit.positions)))
        units.clear()

    for unit in _units(tokens):
        if isinstance(unit, Word):
            close()
            words.append(unit)
            continue
        text = unit.text.strip()
        parted = bool(units) and _is_written_without_blanks(units[-1].text[-1] + text[:1])
        separates = "," in text and _is_punctuation(text)
        if unit.text[:1].isspace() or parted or separates:
            close()
        if text and not separates:
            units.append(_Unit(text, unit.positions))
        if unit.text[-1:].isspace():
            close()
    close()
    return words


def _units(tokens: Iterable[_Token]) -> Iterator[_Unit | Word]:
    """Whole characters, of as many tokens as it takes, and embeddings as words."""
    pending, positions = b"", []
    embedding: Word | None = None
    name: Any = None
    for token in tokens:
        if token.text is None:
            if embedding is not None and token.embedding == name:
                embedding = Word(embedding.text, (*embedding.positions, token.position))
            else:
                if embedding is not None:
                    yield embedding
                embedding, name = Word("embedding", (token.position,)), token.embedding
            continue
        if embedding is not None:
            yield embedding
            embedding = None
        pending += token.text
        positions.append(token.position)
        if _is_whole(pending) or len(pending) >= 2 * CHARACTER:
            yield _Unit(pending.decode(errors="replace"), tuple(positions))
            pending, positions = b"", []
    if pending:
        yield _Unit(pending.decode(errors="replace"), tuple(positions))
    if embedding is not None:
        yield embedding


def _is_whole(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in text)


def _is_written_without_blanks(characters: str) -> bool:
    return all(any(low <= ord(each) <= high for low, high in WITHOUT_BLANKS) for each in characters)
