"""Edit prompts and their words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...instdiff_core.refine import MaskSettings, find_target_words
from ...instdiff_core.tokens import PromptWords, prompt_words

PROMPT = "instdiff_prompt"
"""The key of an `EditPrompt` in the options of a conditioning."""

Conditioning = list[list[Any]]


@dataclass(frozen=True, eq=False)
class EditPrompt:
    """What an edit prompt says beside its conditioning.

    `empty` is the context ``[1, L, D]`` of the empty prompt and its options, as in a CONDITIONING:
    for samplings that predict nothing without the prompt.
    """

    words: PromptWords
    empty: tuple[Tensor, dict[str, Any]]


def encode_prompt(clip: Any, text: str) -> Conditioning:
    """CLIPTextEncode, with its `EditPrompt` kept in the conditioning. Raises ``ValueError`` as `read_prompt`."""
    prompt = read_prompt(clip, text)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict={PROMPT: prompt})


def read_prompt(clip: Any, text: str) -> EditPrompt:
    """The words of a prompt, as `clip` tokenizes it, and the empty prompt.

    Raises ``ValueError`` for a missing CLIP and for text encoders that are not CLIP.
    """
    if clip is None:
        raise ValueError("no CLIP: the checkpoint may hold none; load one with a CLIP loader and connect it")
    tokens = clip.tokenize(text, return_word_ids=True)
    key = next((key for key in ("l", "h", "g") if key in tokens), None)
    tokenizer = getattr(getattr(clip.tokenizer, f"clip_{key}", None), "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"InstDiffEdit reads the words of CLIP prompts, and this encoder is {', '.join(tokens)}")
    context, options = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
    return EditPrompt(prompt_words(tokens[key], tokenizer), (context, options))


def get_edit_prompt(conditioning: Conditioning, settings: MaskSettings, prompt: EditPrompt | None = None) -> EditPrompt:
    """`check_prompt` for a CONDITIONING, before anything is sampled."""
    return check_prompt([(context, options) for context, options in conditioning], settings, prompt)


def check_prompt(
    positive: Iterable[tuple[Tensor, dict[str, Any]]], settings: MaskSettings | None, prompt: EditPrompt | None = None
) -> EditPrompt:
    """The edit prompt: the one given, else the one that `encode_prompt` put into its conditioning.

    `positive` are the contexts and options of the positive conditioning. Raises ``ValueError`` for
    one without an edit prompt, for several with different words, for one whose length does not
    match its words, and as `find_target_words`.
    """
    entries = list(positive)
    if prompt is None:
        entries = [(context, options) for context, options in entries if PROMPT in options]
        if not entries:
            raise ValueError(
                "the positive conditioning carries no words: encode the prompt with the node Encode Edit Prompt, "
                "or connect clip and text"
            )
        prompt = entries[0][1][PROMPT]
        if any(options[PROMPT].words != prompt.words for _, options in entries):
            raise ValueError("the positive conditioning combines several edit prompts: sample one edit at a time")
    words = prompt.words
    for context, _ in entries:
        # exactly: the host repeats a context to match a longer one only while it samples
        if context.shape[1] != words.length:
            raise ValueError(
                f"the positive conditioning has {context.shape[1]} columns, but its words were counted for "
                f"{words.length}: encode the edit prompt again, and do not concatenate it with another one"
            )
    find_target_words(words, settings.target if settings else ())
    return prompt
