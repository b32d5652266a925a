"""Where text and picture stand in the sequences that transformers attend over: a row for each family of models.

Shown by moving one token of the context, or one patch of the latent, and looking which queries of a
block move: tests/nodes/test_joint_layouts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Token positions `first` to `stop` of the context, which stand in the sequence from `place` on."""

    first: int
    stop: int
    place: int


@dataclass(frozen=True)
class Layout:
    """The sequence of a model call: its `length`, and where text and picture stand in it.

    `picture` is the place of the picture's first cell, and `across` how many there are from one row of
    cells to the next.
    """

    length: int
    text: tuple[Span, ...]
    picture: int
    across: int


@dataclass(frozen=True)
class Call:
    """A model call: how many token positions its context has, the cells of its picture, and its further inputs."""

    network: Any
    text: int
    rows: int
    columns: int
    inputs: Mapping[str, Any]

    @property
    def cells(self) -> int:
        """How many cells the picture has."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Family:
    """A family of models, by the name that users know.

    `blocks` are the attributes of the network that hold its blocks, in their order; `side` the pixels
    across pictures that it was made for. `crosses`: its blocks have a cross-attention to the text,
    after a self-attention over the picture alone, of which `lay_out` is the sequence.
    """

    name: str
    blocks: tuple[str, ...]
    lay_out: Callable[[Call], Layout]
    side: int = 1024
    crosses: bool = False


def count_cells(latent_size: tuple[int, ...], network: Any) -> tuple[int, int]:
    """The rows and columns of cells that a latent of ``(..., height, width)`` is cut into, padded at their ends."""
    patch = network.patch_size
    side: int = patch if isinstance(patch, int) else patch[-1]
    return -(-latent_size[-2] // side), -(-latent_size[-1] // side)


def _text_first(call: Call) -> Layout:
    """Text, picture, references."""
    references: list[Tensor] = call.inputs.get("ref_latents") or []
    others = 0
    for each in references:
        rows, columns = count_cells(tuple(each.shape), call.network)
        others += rows * columns
    return Layout(call.text + call.cells + others, (Span(0, call.text, 0),), call.text, call.columns)


def _text_first_both_padded(call: Call) -> Layout:
    """Text and picture, each filled up to a multiple, if there is one.

    With references (Z-Image Omni) their texts stand before the text, what SigLIP sees of each behind all texts, a
    filled up nothing for the picture itself at its end, and then their pictures, before the picture. A reference
    without text or SigLIP has one multiple of pads instead.
    """
    multiple: int = getattr(call.network, "pad_tokens_multiple", None) or 1

    def padded(count: int) -> int:
        return -(-count // multiple) * multiple

    references: list[Tensor] = call.inputs.get("ref_latents") or []
    texts = [padded(each.shape[1]) for each in call.inputs.get("ref_contexts") or []]
    seen = [padded(each.shape[1] * each.shape[2]) for each in call.inputs.get("siglip_feats") or []]
    count = len(references)
    before = sum((texts + [multiple] * count)[:count])
    picture = before + padded(call.text)
    if references:
        picture += sum(texts[count:])
        if getattr(call.network, "siglip_embedder", None) is not None:
            picture += sum((seen + [multiple] * count)[:count]) + multiple
    for each in references:
        rows, columns = count_cells(tuple(each.shape), call.network)
        picture += padded(rows * columns)
    return Layout(picture + padded(call.cells), (Span(0, call.text, before),), picture, call.columns)


def _picture_first(call: Call) -> Layout:
    """Picture, T5, Llama, and Llama as this block has it. A picture to edit stands at the right of each row."""
    llama: int = call.inputs["encoder_hidden_states_llama3"].shape[2]
    given: Tensor | None = call.inputs.get("image_cond")
    across = call.columns + (0 if given is None else count_cells(tuple(given.shape), call.network)[1])
    picture, text = call.rows * across, call.text + llama
    spans = Span(0, text, picture), Span(call.text, text, picture + text)
    return Layout(picture + text + llama, spans, 0, across)


def _picture_alone(call: Call) -> Layout:
    """The picture; the text is attended to apart."""
    return Layout(call.cells, (Span(0, call.text, 0),), 0, call.columns)


TWO_STREAMS = ("double_blocks", "single_blocks")

FAMILIES: Mapping[str, Family] = {
    "Flux": Family("Flux", TWO_STREAMS, _text_first),
    "Chroma": Family("Chroma", TWO_STREAMS, _text_first),
    "OpenAISignatureMMDITWrapper": Family("Stable Diffusion 3", ("joint_blocks",), _text_first),
    "QwenImageTransformer2DModel": Family("Qwen-Image", ("transformer_blocks",), _text_first, side=1328),
    "NextDiT": Family("Lumina 2 and Z-Image", ("layers",), _text_first_both_padded),
    "HiDreamImageTransformer2DModel": Family(
        "HiDream-I1", ("double_stream_blocks", "single_stream_blocks"), _picture_first
    ),
    "WanModel": Family("Wan, for single pictures", ("blocks",), _picture_alone, crosses=True),
}
"""By the class of the host's diffusion model."""

UNREADABLE: Mapping[str, str] = {"PixArtMS": "PixArt", "HunYuanDiT": "HunyuanDiT", "ErnieImageModel": "Ernie-Image"}
"""Models that call their attention without the options by which a node could look at it."""
