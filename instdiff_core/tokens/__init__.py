"""The words of a prompt, and where their tokens stand in the context that a model attends to."""

from .prompt import Tokenizer, find_framed_words, prompt_words
from .spelling import Clip, Spelling, find_spelling
from .words import PromptWords, Word, join_words

__all__ = [
    "Clip",
    "PromptWords",
    "Spelling",
    "Tokenizer",
    "Word",
    "find_framed_words",
    "find_spelling",
    "join_words",
    "prompt_words",
]
