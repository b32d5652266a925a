"""Finding the words in the tokens of a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .spelling import Clip, Spelling
from .words import PromptWords, Word
from .written import Alignment, Stretch, find_stretches

CHARACTER = 4
"""The most bytes of a character in UTF-8."""


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
    """Whole characters, and the positions of the tokens that spell them; None as text stands for an embedding."""

    text: str | None
    positions: tuple[int, ...]


def prompt_words(chunks: Sequence[Sequence[Any]], tokenizer: Tokenizer, text: str) -> PromptWords:
    """The words of a CLIP prompt, which is cut into chunks: start token, up to 75 tokens, end token, pads.

    The chunks stand side by side in the context, so that token `i` of chunk `c` is at position
    ``c * len(chunk) + i``. They hold ids as transformers gives them, or the host's tuples ``(id or
    embedding, weight[, word id])``. The words are those of `text`, the prompt as it was written without
    weights: each has the positions of the tokens that spell it, an embedding those of its vectors,
    which are told apart by their word id. Punctuation is no word. An empty prompt has none.

    Raises ``ValueError`` for no chunks or chunks of different lengths.
    """
    if not chunks or len({len(chunk) for chunk in chunks}) != 1:
        raise ValueError("the prompt has no tokens, or chunks of different lengths")
    length = len(chunks[0])
    tokens: list[_Token] = []
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
        tokens += _tokens(chunk[1:stop], offset + 1, pieces, Clip())
    return PromptWords(_words(tokens, text), tuple(start), tuple(end), len(chunks) * length)


def find_framed_words(
    tokens: Sequence[Any], empty: Sequence[Any], pieces: Mapping[int, str], spelling: Spelling, pad: int, length: int,
    text: str,
) -> PromptWords:  # fmt: skip
    """The words of a prompt that stands in a frame: a template, or only an end token. `text` is as of `prompt_words`.

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
    words = _words(_tokens(tokens[first + before : stop], first + before - dropped, pieces, spelling), text)
    end = (stop - dropped,) if stop < len(tokens) else ()
    return PromptWords(words, (), end, length, spelling.counts_from_end)


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


def _words(tokens: Iterable[_Token], text: str) -> tuple[Word, ...]:
    """The words of a text, each with the positions of the tokens that spell it."""
    text = unicodedata.normalize("NFC", text)
    stretches = list(find_stretches(text))
    alignment = Alignment(text)
    positions: list[tuple[int, ...]] = [()] * len(stretches)
    reached = 0
    for unit in _units(tokens):
        start, stop = alignment.find_embedding(stretches) if unit.text is None else alignment.find(unit.text)
        while reached < len(stretches) and stretches[reached].stop <= start:
            reached += 1
        number = reached
        while number < len(stretches) and stretches[number].start < stop:
            positions[number] += unit.positions
            number += 1
    words: list[Word] = []
    before: Stretch | None = None
    for stretch, own in zip(stretches, positions, strict=True):
        if not own:
            continue
        spelled = text[stretch.start : stretch.stop]
        if before is not None and _are_one(before, stretch) and words[-1].positions == own:
            words[-1] = Word(words[-1].text + spelled, own)
        else:
            words.append(Word(spelled, own))
        before = stretch
    return tuple(words)


def _are_one(stretch: Stretch, following: Stretch) -> bool:
    """Whether the same tokens make two characters one word: side by side, in a script without blanks."""
    return stretch.without_blanks and following.without_blanks and stretch.stop == following.start


def _units(tokens: Iterable[_Token]) -> Iterator[_Unit]:
    """Whole characters, of as many tokens as it takes, and embeddings."""
    pending, positions = b"", []
    embedding: _Unit | None = None
    name: Any = None
    for token in tokens:
        if token.text is None:
            if embedding is not None and token.embedding == name:
                embedding = _Unit(None, (*embedding.positions, token.position))
            else:
                if embedding is not None:
                    yield embedding
                embedding, name = _Unit(None, (token.position,)), token.embedding
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
