"""From attention maps to the instant mask (Zou et al. 2024, section "Instant attention mask").

Everything is batched, stays on the device of the maps, and never waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .attention import AttentionRecord
from .tokens import PromptWords

START, END, FIRST_WORD = 0, 1, 2
"""Positions in the maps' channel axis: the start token, the end token, then the words."""

TINY = 1e-6
ROUNDING = 1e-5
"""Maps that vary by less than this part of themselves are constant: resizing alone does that to one."""


@dataclass(frozen=True)
class MaskSettings:
    """How maps become a mask.

    `threshold` (the paper's phi, 0 to 1): higher makes the mask smaller. `positive` and
    `negative` (-1 to 1, `negative` below `positive`): words whose maps are at least, and at most,
    this similar to the index word's are added to the mask, and taken away from it. `blur` (0 to
    16): how often the map is smoothed with a 5x5 Gaussian. `foreground`: the rough foreground by
    which the index word is found, "start" for the inverse of the start token's map, as published,
    or "words" for the sum of the words' maps, which is the inverse of all that is no word.
    `target`: words that make the mask; empty lets the method find its index word. `share`: one
    mask for the whole batch, from its mean: the paper's noise draws of one picture.

    Raises ``ValueError`` for a value out of range.
    """

    threshold: float = 0.2
    positive: float = 0.9
    negative: float = 0.6
    blur: int = 2
    foreground: Literal["start", "words"] = "start"
    target: tuple[str, ...] = ()
    share: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")
        if not -1 <= self.negative < self.positive <= 1:
            raise ValueError(
                f"negative ({self.negative}) must be below positive ({self.positive}), and both between -1 and 1"
            )
        if not 0 <= self.blur <= 16:
            raise ValueError(f"blur must be between 0 and 16, not {self.blur}")


PRESETS: Mapping[str, MaskSettings] = MappingProxyType(
    {"default": MaskSettings(foreground="words", threshold=0.35), "paper": MaskSettings()}
)
"""`paper` is the published method. `default` does not depend on how a model uses its start token: where the
pads take what no word wants, the start token may light up on the object instead of around it."""


@dataclass(frozen=True)
class WordRoles:
    """What each word is to the mask: kept from the first step on, as the paper does.

    `index` ``[B]`` int64 is the index word's number, `weights` ``[B, words]`` float32 is +1 for
    words that make the mask, -1 for words that it is kept off, 0 for the rest.
    """

    index: Tensor
    weights: Tensor


@dataclass(frozen=True)
class InstantMask:
    """The mask of a step.

    `soft` ``[B, H, W]`` float32 in 0..1; `binary` ``[B, H, W]`` bool, where `soft` reaches the
    threshold; `confidence` ``[B]`` float32 in 0..1, how cleanly the mask parts the soft mask in
    two (the between-class share of its variance, Otsu 1979), 0 for an empty or a full mask.
    """

    soft: Tensor
    binary: Tensor
    roles: WordRoles
    confidence: Tensor


def target_numbers(words: PromptWords, target: tuple[str, ...]) -> list[int]:
    """The numbers of the words that `target` names, case ignored.

    Raises ``ValueError`` for a prompt without words, and for a target that is not in it.
    """
    if not words.words:
        raise ValueError("the edit prompt holds no words: say what the picture should show, for example 'a dog'")
    texts = [text.casefold() for text in words.texts]
    missing = [name for name in target if name.casefold() not in texts]
    if missing:
        raise ValueError(f"{missing[0]!r} is not in the edit prompt: its words are {', '.join(words.texts)}")
    names = {name.casefold() for name in target}
    return [number for number, text in enumerate(texts) if text in names]


def refine(
    maps: Tensor,
    words: PromptWords,
    settings: MaskSettings,
    size: tuple[int, int],
    roles: WordRoles | None = None,
) -> InstantMask:
    """Make the instant mask from maps ``[B, 2 + words, h, w]`` at `size` ``(H, W)``.

    `roles` are those of an earlier step, to be kept; without them they are found here. Maps that
    are constant, zero or NaN say nothing and count as zero. The result may be empty: it is
    for the caller to say so. Raises ``ValueError`` as `target_numbers` does.
    """
    chosen = target_numbers(words, settings.target)
    batch = maps.shape[0]
    maps = torch.nan_to_num(maps.float(), 0.0, 0.0, 0.0)
    if settings.share:
        maps = maps.mean(0, keepdim=True)
        roles = roles and WordRoles(roles.index[:1], roles.weights[:1])
    rough, word_maps = _prepared(maps, size, settings.foreground)
    if roles is None:
        roles = _roles(rough, word_maps, chosen, settings)
    inside = unit_range(_weighted_mean(word_maps, roles.weights > 0))
    outside = unit_range(_weighted_mean(word_maps, roles.weights < 0))
    soft = unit_range(_blurred((inside - outside).clamp(min=0), settings.blur))
    binary = soft >= settings.threshold
    mask = InstantMask(soft, binary, roles, _separation(soft, binary))
    return mask if len(soft) == batch else _expanded(mask, batch)


def refine_record(record: AttentionRecord, settings: MaskSettings, steps: int | None = None) -> InstantMask:
    """The instant mask of a finished run at image size, from its first `steps` (default: all).

    The words get their roles from the first step, as while sampling.
    """
    maps = record.maps[:steps].float()
    roles = refine(maps[0], record.words, settings, record.latent_size).roles
    mask = refine(maps.mean(0), record.words, settings, record.latent_size, roles)
    return at_size(mask, record.image_size, settings)


def at_size(mask: InstantMask, size: tuple[int, int], settings: MaskSettings) -> InstantMask:
    """The mask brought to another size: the soft mask resized, then cut at the threshold again."""
    soft = functional.interpolate(mask.soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return InstantMask(soft, soft >= settings.threshold, mask.roles, mask.confidence)


def unit_range(maps: Tensor) -> Tensor:
    """Each map stretched to 0..1 over its last two axes; a constant map becomes zero."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    rounding = ROUNDING * torch.maximum(high.abs(), low.abs())
    return torch.where(spread > rounding.clamp(min=TINY), (maps - low) / spread.clamp(min=TINY), 0.0)


def _prepared(maps: Tensor, size: tuple[int, int], foreground: str) -> tuple[Tensor, Tensor]:
    """The rough foreground ``[B, H, W]`` and the word maps ``[B, words, H, W]``, each in 0..1 (algorithm.md, 2d)."""
    words = maps[:, FIRST_WORD:]
    start = maps[:, START : START + 1]
    rough = words.sum(1, keepdim=True) if foreground == "words" else start.amax((-2, -1), keepdim=True) - start
    maps = torch.cat([rough, words], 1)
    maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=TINY)
    maps = unit_range(functional.interpolate(maps, size, mode="bicubic", align_corners=False))
    return maps[:, 0], maps[:, 1:]


def _roles(rough: Tensor, word_maps: Tensor, chosen: list[int], settings: MaskSettings) -> WordRoles:
    """Index word and weights by cosine similarity (algorithm.md, 2e and 2f)."""
    reference, words = (functional.normalize(maps.flatten(-2), dim=-1, eps=TINY) for maps in (rough, word_maps))
    likeness = torch.einsum("bn,bwn->bw", reference, words)
    if chosen:
        likeness = likeness[:, chosen]
        index = torch.tensor(chosen, device=words.device)[likeness.argmax(1)]
    else:
        index = likeness.argmax(1)
    index_map = words.take_along_dim(index[:, None, None], 1)
    similarity = torch.einsum("bwn,bkn->bw", words, index_map)
    weights = (similarity >= settings.positive).float() - (similarity <= settings.negative).float()
    if chosen:
        weights = weights.clamp(max=0)
        weights[:, chosen] = 1
    return WordRoles(index, weights.scatter(1, index[:, None], 1.0))


def _weighted_mean(maps: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen words ``[B, words]``; zero where none is chosen."""
    share = chosen.float() / chosen.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bwhx,bw->bhx", maps, share)


def _blurred(maps: Tensor, times: int) -> Tensor:
    """OpenCV's 5x5 Gaussian (sigma 1.1) with repeated borders, `times` over."""
    taps = torch.exp(-torch.arange(-2, 3, device=maps.device, dtype=torch.float32).square() / (2 * 1.1**2))
    kernel = taps / taps.sum()
    blurred = maps[:, None]
    for _ in range(times):
        blurred = functional.pad(blurred, (2, 2, 2, 2), mode="replicate")
        blurred = functional.conv2d(functional.conv2d(blurred, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    return blurred[:, 0]


def _separation(soft: Tensor, binary: Tensor) -> Tensor:
    share = binary.float().mean((-2, -1))
    mean = soft.mean((-2, -1))
    inside = (soft * binary).mean((-2, -1)) / share.clamp(min=TINY)
    outside = (soft * ~binary).mean((-2, -1)) / (1 - share).clamp(min=TINY)
    between = share * (inside - mean).square() + (1 - share) * (outside - mean).square()
    usable = (share > 0) & (share < 1)
    return torch.where(usable, between / soft.var((-2, -1), correction=0).clamp(min=TINY), 0.0).clamp(0, 1)


def _expanded(mask: InstantMask, batch: int) -> InstantMask:
    roles = WordRoles(mask.roles.index.expand(batch), mask.roles.weights.expand(batch, -1))
    soft, binary = (t.expand(batch, -1, -1) for t in (mask.soft, mask.binary))
    return InstantMask(soft, binary, roles, mask.confidence.expand(batch))
