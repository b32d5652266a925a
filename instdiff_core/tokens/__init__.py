"""The words of a prompt, and where their tokens stand in the context that a model attends to."""

from .names import find_nearest_word, find_words, split_names
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
    "find_nearest_word",
    "find_spelling",
    "find_words",
    "join_words",
    "prompt_words",
    "split_names",
]
