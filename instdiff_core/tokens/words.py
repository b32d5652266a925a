"""A prompt's words and their token positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Word:
    """A whole word as the prompt has it, and where its tokens stand in the context."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class PromptWords:
    """The words of an edit prompt, the positions of its start and end tokens, and the length of its context.

    Only CLIP has a start token. A word may have tokens in several parts of the context (`join_words`).
    In a longer context CLIP's words come again with every repeat; others are as far from its end as here where
    `from_end` says so, and what is new comes before them, else it comes behind them.
    """

    words: tuple[Word, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    length: int
    from_end: bool = False

    def __post_init__(self) -> None:
        if any(not word.positions for word in self.words):
            raise ValueError("each word of a prompt needs at least one token position")
        positions = [position for word in self.words for position in word.positions] + [*self.start, *self.end]
        if any(not 0 <= position < self.length for position in positions):
            raise ValueError(f"the words reach beyond the {self.length} token positions of their context")

    @property
    def texts(self) -> tuple[str, ...]:
        """The words as text, in prompt order."""
        return tuple(word.text for word in self.words)

    def fits(self, length: int) -> bool:
        """Whether the words are known in a context of this length."""
        return length % self.length == 0 if self.start else length >= self.length

    def matrix(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """``[length, 2 + words]`` float32: probabilities times this give the maps of start, end and words.

        A word's map is the mean over its tokens (docs/method.md, 2.2). A context of CLIP's that the host
        repeated to match a longer one (`length` a multiple of ours) is folded by summing; of others what was
        added before or behind the prompt counts for nothing. Raises ``ValueError`` for any other length.
        """
        if not self.fits(length):
            raise ValueError(
                f"the conditioning has {length} token positions, but its words were counted for {self.length}: "
                "encode the edit prompt again, and do not concatenate it with another one"
            )
        matrix = torch.zeros(self.length, 2 + len(self.words))
        for number, positions in enumerate((self.start, self.end, *(word.positions for word in self.words))):
            matrix[list(positions), number] = 1 / max(len(positions), 1)
        if self.start:
            matrix = matrix.repeat(length // self.length, 1)
        else:
            added = length - self.length
            matrix = functional.pad(matrix, (0, 0, added, 0) if self.from_end else (0, 0, 0, added))
        # nothing writes to it again, so the device need not be waited for
        return matrix.to(device, non_blocking=True)


def join_words(parts: Sequence[PromptWords]) -> PromptWords:
    """The words of a prompt whose context is several encoders' contexts, one after the other.

    A word that several encoders have, as they come in order, is one with tokens in all of these parts.
    """
    whole = parts[0]
    for part in parts[1:]:
        whole = _appended(whole, _moved(part, whole.length))
    return whole


def _moved(words: PromptWords, by: int) -> PromptWords:
    def move(positions: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(position + by for position in positions)

    return replace(
        words, words=tuple(Word(word.text, move(word.positions)) for word in words.words), start=move(words.start),
        end=move(words.end), length=words.length + by,
    )  # fmt: skip


def _appended(whole: PromptWords, part: PromptWords) -> PromptWords:
    first, second = ([text.casefold() for text in words.texts] for words in (whole, part))
    words: list[Word] = []
    for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind == "equal":
            pairs = zip(whole.words[a:b], part.words[c:d], strict=True)
            words += [Word(word.text, word.positions + other.positions) for word, other in pairs]
        else:
            words += [*whole.words[a:b], *part.words[c:d]]
    return PromptWords(tuple(words), whole.start + part.start, whole.end + part.end, part.length, part.from_end)
