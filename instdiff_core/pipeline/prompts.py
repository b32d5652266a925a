"""The edit prompts of pictures: one for each, or several, which are edits of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..edits import choose_settings
from ..options import MaskSettings
from ..refine import find_target_words
from ..tokens import PromptWords
from .model import EditModel


@dataclass(frozen=True)
class EditPrompt:
    """What an edit should make of the picture, and how its mask is made: None as those of the other edits are."""

    text: str
    settings: MaskSettings | None = None


Prompt = str | EditPrompt | Sequence[str | EditPrompt]
"""The edit prompt of a picture, or one for each of its edits."""


@dataclass(frozen=True)
class ReadEdit:
    """An edit of a picture, with the words of its prompt and the settings of its mask."""

    prompt: EditPrompt
    words: PromptWords
    settings: MaskSettings


def split_edits(prompt: Prompt) -> list[EditPrompt]:
    """The prompts of a picture's edits."""
    prompts = [prompt] if isinstance(prompt, (str, EditPrompt)) else prompt
    return [EditPrompt(entry) if isinstance(entry, str) else entry for entry in prompts]


def read_edits(model: EditModel, prompt: Prompt, settings: MaskSettings) -> list[ReadEdit]:
    """The edits of a picture; `settings` are for those that have none of their own.

    Raises ``ValueError`` where there is no prompt, for one that holds no words or is too long for the model, and for
    a target of the settings that is in none.
    """
    prompts = split_edits(prompt)
    if not prompts:
        raise ValueError("a picture needs an edit prompt")
    words = [model.words(edit_prompt.text) for edit_prompt in prompts]
    chosen = choose_settings(words, [edit_prompt.settings for edit_prompt in prompts], settings)
    edits = [ReadEdit(*parts) for parts in zip(prompts, words, chosen, strict=True)]
    for edit in edits:
        find_target_words(edit.words, edit.settings.target)
    return edits
