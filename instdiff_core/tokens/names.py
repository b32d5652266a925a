"""Naming words of a prompt, as people write them."""

from __future__ import annotations

import difflib
import functools
import re

from .words import PromptWords
from .written import split_letters

COMMAS = re.compile("[,，、]")
"""What parts the names in a list."""

WEIGHT = re.compile(r":[\d.]+(?=\)+$)")
"""The number in a name such as (frog:1.3)."""


def split_names(names: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in COMMAS.split(names) if name.strip())


def find_words(words: PromptWords, name: str) -> list[int]:
    """The numbers of the words that a name covers, wherever it is in the prompt; empty where it is not.

    A name is a word, a phrase, or a part of a word between punctuation (shirt of t-shirt) or in a text without
    blanks (青 of 青蛙). Case, punctuation and a weight, as of ``(frog:1.3)``, are ignored.
    """
    wanted = split_letters(_without_weight(name))
    pieces, numbers = _pieces(words)
    covered: set[int] = set()
    for start in range(len(pieces) - len(wanted) + 1) if wanted else ():
        if pieces[start : start + len(wanted)] == wanted:
            covered.update(numbers[start : start + len(wanted)])
    return sorted(covered)


def find_nearest_word(words: PromptWords, name: str) -> str | None:
    """The word that is most like `name`, case ignored; None where none is near."""
    folded = {text.casefold(): text for text in reversed(words.texts)}
    near = difflib.get_close_matches(_without_weight(name).casefold(), folded, 1)
    return folded[near[0]] if near else None


def _without_weight(name: str) -> str:
    return WEIGHT.sub("", name).strip("() ")


@functools.lru_cache(16)
def _pieces(words: PromptWords) -> tuple[list[str], list[int]]:
    """The pieces of all words, one after the other, and the number of the word that each is of."""
    pieces = [(piece, number) for number, text in enumerate(words.texts) for piece in split_letters(text)]
    return [piece for piece, _ in pieces], [number for _, number in pieces]
