"""Edit prompts and their words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy.sd1_clip import escape_important, token_weights, unescape_important
from torch import Tensor

from ...instdiff_core.edits import choose_settings
from ...instdiff_core.options import MaskSettings
from ...instdiff_core.refine import check_method, find_target_words
from ...instdiff_core.tokens import Clip, PromptWords, find_framed_words, find_spelling, join_words, prompt_words
from .notices import notify

PROMPT = "instdiff_prompt"
"""The key of an `EditPrompt` in the options of a conditioning."""

Conditioning = list[list[Any]]

CONTEXTS: Mapping[frozenset[str], tuple[str, ...]] = {
    frozenset({"g", "l"}): ("l",),
    frozenset({"l", "t5xxl"}): ("t5xxl",),
    frozenset({"g", "l", "t5xxl"}): ("l", "t5xxl"),
    frozenset({"g", "l", "t5xxl", "llama"}): ("t5xxl", "llama"),
}
"""Whose encodings make the context, where there are several encoders: SDXL's stand side by side, Flux has T5's,
SD3 both, HiDream those of T5 and Llama. The rest is pooled."""

OMNI_ENCODER = ["qwen3_4b"]
"""The encoders of Z-Image."""

OMNI_OPTION = "reference_latents_text_embeds"
"""The option of a conditioning that TextEncodeZImageOmni has made with pictures."""

OMNI_TEMPLATE = "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n<|vision_start|>"
"""What stands around the prompt in such a conditioning, in place of the tokenizer's own template."""

OF_WHOLE_PICTURE = {"area", "mask", "control", "gligen", "concat_latent_image", "reference_latents"}
"""The options of a conditioning that hold places in a picture, or pictures of its size."""

LOADED = {"l": ("clip_l", "clip_g")}
"""What a key's encoders are called, of which one is enough, where that is not as the key."""


@dataclass(frozen=True, eq=False)
class EditPrompt:
    """What an edit prompt says beside its conditioning.

    `empty` is the context ``[1, L, D]`` of the empty prompt and its options, as in a CONDITIONING:
    for samplings that predict nothing without the prompt. `settings` and `mask` ``[B, h, w]`` in 0..1, of any
    size, are this edit's own, in place of the sampler's. `omni` are the words as TextEncodeZImageOmni encodes the
    prompt beside pictures, where the text encoder is Z-Image's.
    """

    words: PromptWords
    empty: tuple[Tensor, dict[str, Any]]
    settings: MaskSettings | None = None
    mask: Tensor | None = None
    omni: PromptWords | None = None

    def is_same_edit(self, other: EditPrompt) -> bool:
        """Whether another prompt, of another conditioning, stands for the same edit."""
        return self.words == other.words and self.settings == other.settings and self.mask is other.mask


def encode_prompt(
    clip: Any, text: str, settings: MaskSettings | None = None, mask: Tensor | None = None
) -> Conditioning:
    """CLIPTextEncode, with its `EditPrompt` kept in the conditioning.

    Raises ``ValueError`` as `read_prompt`, and for settings that do not suit the prompt.
    """
    prompt = replace(read_prompt(clip, text), settings=settings, mask=mask)
    if settings is not None:
        find_target_words(prompt.words, settings.target)
        check_method(prompt.words, settings)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict={PROMPT: prompt})


def read_prompt(clip: Any, text: str) -> EditPrompt:
    """The words of a prompt, as `clip` tokenizes it, and the empty prompt.

    Tells the user of weights that the text encoder does not know. Raises ``ValueError`` for a missing
    CLIP, and for text encoders whose prompts are not read.
    """
    if clip is None:
        raise ValueError("no CLIP: the checkpoint may hold none; load one with a CLIP loader and connect it")
    keys = _encoders(clip, clip.tokenize(text))
    context, options = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0]
    # what a template loses at its beginning it loses with any prompt
    length = context_length(context, options)
    cut = len(clip.tokenize("")[keys[0]][0]) - length if len(keys) == 1 else 0
    words = _read_words(clip, text, keys, cut)
    omni = _read_words(clip, text, keys, cut, llama_template=OMNI_TEMPLATE) if keys == OMNI_ENCODER else None
    if _has_weights(text) and not any(_knows_weights(clip, key) for key in keys):
        notify(
            "this text encoder does not know weights such as (word:1.3), and reads the brackets and the number as "
            "words: leave them out"
        )
    return EditPrompt(words, (context, options), omni=omni)


def context_length(context: Tensor, options: dict[str, Any]) -> int:
    """How many token positions a conditioning has: those of its context, and with HiDream those of Llama behind it."""
    llama: Tensor | None = options.get("conditioning_llama3")
    return context.shape[1] + (0 if llama is None else llama.shape[2])


def suits_a_crop(conditioning: Conditioning) -> bool:
    """Whether a CONDITIONING says the same of a part of a picture as of the whole: one prompt, and no places."""
    return all(len(context) == 1 and not OF_WHOLE_PICTURE & options.keys() for context, options in conditioning)


def _encoders(clip: Any, tokens: dict[str, Any]) -> list[str]:
    """The keys of the tokens that make the context, in its order. Raises ``ValueError`` where it is not known."""
    keys = CONTEXTS.get(frozenset(tokens), tuple(tokens) if len(tokens) == 1 else ())
    if len(keys) > 1:  # some loaders leave some of a model's encoders out
        names = {key: LOADED.get(key, (key,)) for key in keys}
        keys = tuple(
            key for key in keys if any(getattr(clip.cond_stage_model, name, None) is not None for name in names[key])
        )
    vocabularies = [getattr(_tokenizer(clip, key), "inv_vocab", {}).values() for key in keys]
    if not keys or any(find_spelling(vocabulary) is None for vocabulary in vocabularies):
        raise ValueError(f"InstDiffEdit does not know how this text encoder cuts prompts: {', '.join(tokens)}")
    return list(keys)


def _tokenizer(clip: Any, key: str) -> Any:
    """The host's tokenizer behind a key of its tokens; None where it is no tokenizer of the host's."""
    return getattr(clip.tokenizer, f"clip_{key}", getattr(clip.tokenizer, key, None))


def _read_words(clip: Any, text: str, keys: Sequence[str], cut: int, **template: str) -> PromptWords:
    """The words of `text` in the context that these encoders make, without its first `cut` tokens."""
    tokens, empty = (clip.tokenize(part, return_word_ids=True, **template) for part in (text, ""))
    return join_words(
        [
            _part(
                _tokenizer(clip, key), tokens[key], empty[key], cut,
                _without_weights(text) if _knows_weights(clip, key) else text,
            )
            for key in keys
        ]
    )  # fmt: skip


def _part(tokenizer: Any, chunks: Any, empty: Any, cut: int, text: str) -> PromptWords:
    """The words of `text` in one encoder's part of the context, of which the first `cut` tokens are missing."""
    pieces = tokenizer.inv_vocab
    spelling = find_spelling(pieces.values())
    assert spelling is not None
    if isinstance(spelling, Clip):
        return prompt_words(chunks, tokenizer.tokenizer, text)
    return find_framed_words(chunks[0], empty[0], pieces, spelling, tokenizer.pad_token, len(chunks[0]) - cut, text)


def _knows_weights(clip: Any, key: str) -> bool:
    """Whether an encoder takes brackets for a weight, as most do, and not for a part of the prompt."""
    return any(entry[1] != 1 for chunk in clip.tokenize("(a:1.5)")[key] for entry in chunk)


def _has_weights(text: str) -> bool:
    return any(weight != 1 for _, weight in token_weights(escape_important(text), 1.0))


def _without_weights(text: str) -> str:
    """A prompt as the host's tokenizers read it, without the brackets and numbers of its weights."""
    return "".join(unescape_important(part) for part, _ in token_weights(escape_important(text), 1.0))


def get_edit_prompts(
    conditioning: Conditioning, settings: MaskSettings | None, prompt: EditPrompt | None = None
) -> list[EditPrompt]:
    """`check_prompts` for a CONDITIONING, before anything is sampled."""
    return check_prompts([(context, options) for context, options in conditioning], settings, prompt)


def check_prompts(
    positive: Iterable[tuple[Tensor, dict[str, Any]]], settings: MaskSettings | None, prompt: EditPrompt | None = None
) -> list[EditPrompt]:
    """The edit prompts: the one given, else those that `encode_prompt` put into their conditionings, in their order.

    `positive` are the contexts and options of the positive conditioning. Raises ``ValueError`` for
    one without an edit prompt, for several where nothing is edited (`settings` None), for one whose length does not
    match its words, and as `find_target_words` and `check_method`.
    """
    entries = list(positive)
    named = prompt is not None
    if prompt is not None and prompt.omni is not None and any(OMNI_OPTION in options for _, options in entries):
        prompt = replace(prompt, words=prompt.omni)
    prompts = [prompt] if prompt is not None else find_prompts(options for _, options in entries)
    if not prompts:
        raise ValueError(
            "the positive conditioning carries no words: encode the prompt with the node Encode Edit Prompt, "
            "or connect clip and text"
        )
    if len(prompts) > 1 and settings is None:
        raise ValueError(
            "the positive conditioning combines several edit prompts, which a sampler mixes where nothing is edited: "
            "capture the attention of one at a time"
        )
    for context, options in entries:
        words = prompts[0].words if named else options[PROMPT].words if PROMPT in options else None
        length = context_length(context, options)
        # exactly: the host repeats a context to match a longer one only while it samples; but other nodes add tokens of
        # pictures, before the words (TextEncodeQwenImageEdit) or behind them (Redux)
        if words and length != words.length and not (named and not words.start and length > words.length):
            raise ValueError(
                f"the positive conditioning has {length} token positions, but its words were counted for "
                f"{words.length}: encode the edit prompt again, and do not concatenate it with another one"
                + ("" if words.start or named else "; where another node adds a picture to it, connect clip and text")
            )
    for each, own in zip(prompts, settings_of_prompts(prompts, settings or MaskSettings("change")), strict=True):
        find_target_words(each.words, own.target)
        check_method(each.words, own)
    return prompts


def find_prompts(options: Iterable[Mapping[str, Any]]) -> list[EditPrompt]:
    """The different edits among the options of conditionings, in their order."""
    prompts: list[EditPrompt] = []
    for each in options:
        if PROMPT in each and not any(each[PROMPT].is_same_edit(prompt) for prompt in prompts):
            prompts.append(each[PROMPT])
    return prompts


def part_conditioning(conditioning: Conditioning) -> list[Conditioning]:
    """A CONDITIONING for each of its edits, with what is of none; as it is where there is one edit, or none."""
    prompts = find_prompts(options for _, options in conditioning)
    if len(prompts) < 2:
        return [conditioning]
    return [
        [entry for entry in conditioning if PROMPT not in entry[1] or entry[1][PROMPT].is_same_edit(prompt)]
        for prompt in prompts
    ]


def settings_of_prompts(prompts: Sequence[EditPrompt], settings: MaskSettings) -> list[MaskSettings]:
    """The settings of each edit: its own, else the sampler's. Raises ``ValueError`` as `share_settings`."""
    return choose_settings([prompt.words for prompt in prompts], [prompt.settings for prompt in prompts], settings)
