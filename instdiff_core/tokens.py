"""The words of a prompt and their columns in the cross-attention context.

A CLIP prompt is cut into chunks: start token, up to 75 tokens, end token, pads. The chunks
stand side by side in the context, so token `i` of chunk `c` is column ``c * len(chunk) + i``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Tokenizer(Protocol):
    """The part of transformers' ``CLIPTokenizer`` that is needed; the host's tokenizers wrap one."""

    bos_token_id: int
    eos_token_id: int

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Word:
    """A whole word as the prompt has it, and the columns of its tokens."""

    text: str
    columns: tuple[int, ...]


@dataclass(frozen=True)
class PromptWords:
    """The words of an edit prompt, its start and end columns, and the length of its context."""

    words: tuple[Word, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        columns = [column for word in self.words for column in word.columns] + [*self.start, *self.end]
        if not self.start or any(not word.columns for word in self.words):
            raise ValueError("a prompt needs a start column, and each of its words at least one column")
        if any(not 0 <= column < self.length for column in columns):
            raise ValueError(f"the words reach beyond the {self.length} columns of their context")

    @property
    def texts(self) -> tuple[str, ...]:
        """The words as text, in prompt order."""
        return tuple(word.text for word in self.words)

    def matrix(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """``[length, 2 + words]`` float32: probabilities times this give start, end and word maps.

        A word's map is the mean over its columns (docs/method.md, 2.2). A context that the host
        repeated to match a longer one (`length` a multiple of ours) is folded by summing.
        Raises ``ValueError`` when `length` is no multiple of the prompt's own length.
        """
        if length % self.length:
            raise ValueError(
                f"the conditioning has {length} columns, but its words were counted for {self.length}: "
                "encode the edit prompt again, and do not concatenate it with another one"
            )
        matrix = torch.zeros(self.length, 2 + len(self.words))
        for index, columns in enumerate((self.start, self.end, *(word.columns for word in self.words))):
            matrix[list(columns), index] = 1 / max(len(columns), 1)
        return matrix.repeat(length // self.length, 1).to(device)


def prompt_words(chunks: Sequence[Sequence[Any]], tokenizer: Tokenizer) -> PromptWords:
    """Find the words of a tokenised prompt.

    `chunks` holds, for each chunk of the context, its tokens: ids as transformers gives them, or
    the host's tuples ``(id or embedding, weight[, word id])``. Sub-words are joined to words by
    CLIP's end-of-word mark, the vectors of one textual-inversion embedding by their word id.
    Punctuation is no word. An empty prompt has none. Raises ``ValueError`` for no chunks or
    chunks of different lengths.
    """
    if not chunks or len({len(chunk) for chunk in chunks}) != 1:
        raise ValueError("the prompt has no tokens, or chunks of different lengths")
    words: list[Word] = []
    start: list[int] = []
    end: list[int] = []
    for number, chunk in enumerate(chunks):
        offset = number * len(chunk)
        start.append(offset)
        tokens = [_token(entry) for entry in chunk]
        stop = next((i for i, (token, _) in enumerate(tokens) if i and token == tokenizer.eos_token_id), len(chunk))
        if stop < len(chunk):
            end.append(offset + stop)
        words += _words(tokens[1:stop], offset + 1, tokenizer)
    return PromptWords(tuple(words), tuple(start), tuple(end), len(chunks) * len(chunks[0]))


def _token(entry: Any) -> tuple[int | None, Any]:
    """The id of a token (none for an embedding) and what tells it from its neighbours."""
    if isinstance(entry, (tuple, list)):
        token, key = entry[0], entry[2] if len(entry) > 2 else None
        return (int(token), key) if isinstance(token, int) else (None, key)
    return int(entry), None


def _words(tokens: Iterable[tuple[int | None, Any]], first: int, tokenizer: Tokenizer) -> list[Word]:
    words: list[Word] = []
    ids: list[int] = []
    columns: list[int] = []
    embedding: Any = None

    def close() -> None:
        # without commas, which part words where they are listed
        text = tokenizer.decode(ids).replace(",", "").strip() if ids else "embedding"
        if columns and not all(unicodedata.category(letter).startswith("P") for letter in text):
            words.append(Word(text, tuple(columns)))
        ids.clear()
        columns.clear()

    for column, (token, key) in enumerate(tokens, first):
        if token is None:
            if ids or key != embedding:
                close()
            embedding = key
            columns.append(column)
            continue
        if columns and not ids:
            close()
        piece = tokenizer.convert_ids_to_tokens([token])[0]
        ids.append(token)
        columns.append(column)
        if piece.endswith("</w>"):
            close()
    close()
    return words
