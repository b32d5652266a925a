"""From the evidence of a run to the instant mask.

Two methods. "attention" is the published one (Zou et al. 2024, section "Instant attention mask").
"change" asks where the prompt would change the picture, and there only where it contradicts
it; on our benchmark it is the more accurate. Both are batched, stay on the device of the evidence,
and never wait for it; only cleaning a finished mask does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from .components import clean_masks
from .corrections import Corrections
from .evidence import CHANGE, ERROR, ERROR_WITHOUT, FIRST_PROPAGATED, FIRST_WORD, START, AttentionRecord, Evidence
from .maps import (
    TINY,
    KeptFilters,
    blur,
    centre_threshold,
    follow_edges,
    measure_separation,
    rescale_to_unit,
    resize,
)
from .metrics import iou
from .options import MaskSettings, MaskShape
from .rim import lower_rims
from .shape import shape_masks
from .tokens import PromptWords, find_nearest_word, find_words

FITS, CONTRADICTS = 0.95, 1.2
"""Ratios of the prompt's error to the error without it: up to the first a place stays, from the second it changes."""

PICTURE_RADIUS = 2
"""Latent pixels within which the finished mask follows the edges of the picture."""

FollowEdges = Callable[[Tensor, Tensor, int], Tensor]
"""`maps.follow_edges`, or the same with what depends on the image alone kept from call to call."""

SETTLED = 0.95
"""The IoU from which on two masks hardly differ."""

FITTING = 1.06
"""The ratio below which the prompt fits a place that stands out: one, and what noise adds to it."""

STAYS, NEW = 0.88, 1.15
"""Ratios at almost pure noise: up to the first the rest stays, from the second the prompt asks for a new one
(`rest.ask_about_rest`)."""

DOUBTFUL = 1.12
"""The ratio up to which a place that stands out may be contradicted by chance alone."""

SALIENT = 0.5
"""The part of the largest change that makes a place salient."""

MAX_LISTED_WORDS = 12
"""How many words an error lists."""


@dataclass(frozen=True)
class WordRoles:
    """What each word is to the mask.

    `index` ``[B]`` int64 is the index word's number, `weights` ``[B, words]`` float32 is +1 for
    words that go with it, -1 for words that go against it, 0 for the rest.
    """

    index: Tensor
    weights: Tensor


@dataclass(frozen=True)
class InstantMask:
    """The mask of a step.

    `soft` ``[B, H, W]`` float32 in 0..1; `binary` ``[B, H, W]`` bool, where `soft` reaches the
    threshold, and at image size without the specks and holes that `soft` still has
    (`MaskSettings.min_area`); both end where the latent's own noise mask does. `confidence` ``[B]``
    float32 in 0..1, how cleanly the mask parts the soft mask in two (`maps.measure_separation`), beyond the
    noise mask too; `fits` ``[B]`` bool, whether the prompt contradicts nothing that stands out in
    the picture, so that the mask is what is left, or empty where that fits too: always false for "attention".
    """

    soft: Tensor
    binary: Tensor
    roles: WordRoles
    confidence: Tensor
    fits: Tensor


def find_target_words(words: PromptWords, target: tuple[str, ...]) -> list[int]:
    """The numbers of the words that `target` names (`find_words`).

    Raises ``ValueError`` for a prompt without words, and for a target that is not in it.
    """
    if not words.words:
        raise ValueError("the edit prompt holds no words: say what the picture should show, for example 'a dog'")
    numbers = [find_words(words, name) for name in target]
    if [] in numbers:
        missing = target[numbers.index([])]
        raise ValueError(f"{missing!r} is not in the edit prompt: {_those_of(words, missing)}")
    return sorted({number for same in numbers for number in same})


def check_method(words: PromptWords, settings: MaskSettings) -> None:
    """Raises ``ValueError`` for the method "attention" on a prompt without a start token, unless words are named.

    It finds the word that stands for the object by the start token's map.
    """
    if settings.method == "attention" and not words.start and not settings.target:
        raise ValueError(
            "the published method (preset 'paper') begins at the start token, and this model's text encoder has none: "
            "take the preset 'default', or name the words that make the mask"
        )


def _those_of(words: PromptWords, name: str) -> str:
    """The words that could have been named, at most `MAX_LISTED_WORDS` of them, and the one most like `name`."""
    known = list(dict.fromkeys(words.texts))
    told = f"its words are {', '.join(known[:MAX_LISTED_WORDS])}"
    if len(known) > MAX_LISTED_WORDS:
        told += f" and {len(known) - MAX_LISTED_WORDS} more"
    near = find_nearest_word(words, name)
    return f"{told}; the nearest is {near!r}" if near else told


def refine(
    evidence: Evidence, words: PromptWords, settings: MaskSettings, follow: FollowEdges = follow_edges
) -> InstantMask:
    """Make the instant mask from the evidence so far, in latent pixels.

    Maps that are constant, zero or NaN say nothing and count as zero. The result may be empty: it
    is for the caller to say so. Raises ``ValueError`` as `find_target_words` and `check_method` do.
    """
    return limit_mask(evidence.noise_mask, _ignore_noise_mask(evidence, words, settings, follow))


def refine_area(
    evidence: Evidence, words: PromptWords, settings: MaskSettings, follow: FollowEdges = follow_edges
) -> tuple[Tensor, Tensor]:
    """`soft` and `binary` of `refine` alone, in half of its operations: what a step needs."""
    soft = _find(evidence, words, settings, follow)[0].expand(len(evidence.maps), -1, -1)
    binary = soft >= settings.threshold
    if evidence.noise_mask is None:
        return soft, binary
    return torch.where(evidence.noise_mask, soft, 0.0), binary & evidence.noise_mask


def _ignore_noise_mask(
    evidence: Evidence, words: PromptWords, settings: MaskSettings, follow: FollowEdges = follow_edges
) -> InstantMask:
    """The mask as if there were no noise mask."""
    soft, find_roles, fits = _find(evidence, words, settings, follow)
    binary = soft >= settings.threshold
    mask = InstantMask(soft, binary, find_roles(), measure_separation(soft, binary), fits)
    batch = len(evidence.maps)
    return mask if len(soft) == batch else _expanded(mask, batch)


def _find(evidence: Evidence, words: PromptWords, settings: MaskSettings, follow: FollowEdges) -> Found:
    """What the settings' method finds, in a batch of one where it is shared."""
    chosen = find_target_words(words, settings.target)
    check_method(words, settings)
    if settings.share:
        evidence = evidence.shared()
    if settings.method == "change":
        return _by_change(_settle_doubt(evidence), chosen, settings, follow)
    return _by_attention(evidence, chosen, settings)


def limit_mask(where: Tensor | None, mask: InstantMask) -> InstantMask:
    """What of the mask is where it may be, ``[B, H, W]`` bool of its size; None: all of it."""
    if where is None:
        return mask
    return replace(mask, soft=torch.where(where, mask.soft, 0.0), binary=mask.binary & where)


def refine_record(
    record: AttentionRecord, settings: MaskSettings, steps: int | None = None, picture: Tensor | None = None
) -> InstantMask:
    """The instant mask of a finished run at image size, from its first `steps` (default: all).

    `picture` is what `resize_mask` follows.
    """
    mask = _ignore_noise_mask(record.evidence(steps), record.words, settings)
    return resize_mask(mask, record.image_size, settings, picture, record.noise_mask)


def resize_mask(
    mask: InstantMask, size: tuple[int, int], settings: MaskSettings, picture: Tensor | None = None,
    noise_mask: Tensor | None = None, follow: FollowEdges = follow_edges,
) -> InstantMask:  # fmt: skip
    """The mask brought to another size ``(H, W)``: the soft mask resized, cut at the threshold again, and cleaned.

    The method "change" follows the edges of `picture` ``[B or 1, 3, H, W]`` in 0..1, where one is given, finds its
    cut again, and lowers what of a mask clearly shows nothing but its surroundings (`rim`). Last, what is outside a
    `noise_mask` ``[B, h, w]`` bool of any size goes.
    """
    if settings.method == "change":
        if picture is None:
            soft = centre_threshold(resize(mask.soft, size))
        else:
            pictures = picture.to(mask.soft).expand(len(mask.soft), -1, -1, -1)
            soft = centre_threshold(follow(mask.soft, pictures, PICTURE_RADIUS))
            soft = lower_rims(soft, pictures, ~mask.fits)
    else:
        soft = resize(mask.soft, size)
    binary = clean_masks(soft >= settings.threshold, settings.min_area)
    return limit_mask(resize_noise_mask(noise_mask, size), replace(mask, soft=soft, binary=binary))


def retouch_mask(
    mask: InstantMask, shape: MaskShape, corrections: Corrections, noise_mask: Tensor | None = None
) -> InstantMask:
    """A mask at image size in another shape, and then corrected by hand: its `binary`; `soft` stays as it is.

    Last, what is outside a `noise_mask` ``[B, h, w]`` bool of any size goes.
    """
    binary = corrections.apply(shape_masks(mask.binary, shape))
    size = binary.shape[-2], binary.shape[-1]
    return limit_mask(resize_noise_mask(noise_mask, size), replace(mask, binary=binary))


def resize_noise_mask(noise_mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """A noise mask ``[B, h, w]`` bool at another size ``(H, W)``; None: there is none."""
    return noise_mask if noise_mask is None else functional.interpolate(noise_mask[:, None].float(), size)[:, 0] > 0


@dataclass(frozen=True)
class Convergence:
    """How a mask came about, for each picture of a batch.

    `settled` ``[B]`` int64 is the first step, counted from 1, from which on the mask hardly changed
    (an IoU of at least `SETTLED` with the last). `agreement` ``[B]`` float32 in 0..1 is the mean
    IoU of the steps' masks, and of the draws' own where draws share a mask, with the last.
    """

    settled: Tensor
    agreement: Tensor
    steps: int


def trace_convergence(record: AttentionRecord, settings: MaskSettings, steps: int | None = None) -> Convergence:
    """How the mask of the first `steps` (default: all) of a finished run came about, in latent pixels."""
    follow = KeptFilters()
    evidences = islice(record.evidences(), steps)
    masks = [refine_area(evidence, record.words, settings, follow)[1] for evidence in evidences]
    likeness = torch.stack([iou(mask, masks[-1]) for mask in masks])
    changed = likeness < SETTLED
    settled = (changed * torch.arange(1, len(masks) + 1)[:, None]).amax(0) + 1
    agreement = likeness.mean(0)
    if settings.share:
        own = refine_area(record.evidence(steps), record.words, replace(settings, share=False))[1]
        agreement = agreement * iou(own, masks[-1]).mean()
    return Convergence(settled, agreement, len(masks))


Found = tuple[Tensor, Callable[[], WordRoles], Tensor]
"""The soft mask in latent pixels, what finds the words' roles, and `InstantMask.fits`."""


def contradiction(evidence: Evidence) -> Tensor:
    """How much the prompt contradicts the picture, where it would change it, ``[B, h, w]`` float32, 0 and above.

    In units of the noise, so that pictures compare: of several, the thing that the prompt is to
    replace is most likely where it is largest.
    """
    change, ratio = _change_and_ratio(evidence)
    return change * _contradicts(ratio)


def explanation(evidence: Evidence) -> Tensor:
    """What part of the model's error without prompt the prompt takes away, ``[B, h, w]`` float32 in 0..1."""
    return _explains(_change_and_ratio(evidence)[1])


def _change_and_ratio(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The change, and the ratio of the prompt's error to the error without it, both ``[B, h, w]``."""
    change, error, without = (evidence.propagated[:, channel] for channel in (CHANGE, ERROR, ERROR_WITHOUT))
    return change, error / without.clamp(min=TINY)


def _contradicts(ratio: Tensor) -> Tensor:
    return ((ratio - FITS) / (CONTRADICTS - FITS)).clamp(0, 1)


def _explains(ratio: Tensor) -> Tensor:
    return (1 - ratio).clamp(min=0)


def is_in_doubt(evidence: Evidence) -> Tensor:
    """Whether the prompt contradicts what stands out in the picture so little that it may be chance, ``[B]`` bool."""
    peak = _peak(*_salient_and_ratio(evidence))
    return (peak >= FITTING) & (peak < DOUBTFUL)


def _settle_doubt(evidence: Evidence) -> Evidence:
    """The evidence of all looks alone, where they find that the prompt fits a picture in doubt."""
    if evidence.looks is None:
        return evidence
    of_looks = replace(evidence, propagated=evidence.looks, looks=None)
    chance = is_in_doubt(evidence) & (_peak(*_salient_and_ratio(of_looks)) < FITTING)
    return replace(of_looks, propagated=torch.where(chance[:, None, None, None], evidence.looks, evidence.propagated))


def _salient_and_ratio(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """`_change_and_ratio`, the change from 0 to 1."""
    change, ratio = _change_and_ratio(evidence)
    return rescale_to_unit(change), ratio


def _peak(salient: Tensor, ratio: Tensor) -> Tensor:
    """The largest ratio of what stands out ``[B]``; 0 where nothing does."""
    return torch.where(salient >= SALIENT, ratio, 0.0).amax((-2, -1))


def _by_change(evidence: Evidence, chosen: list[int], settings: MaskSettings, follow: FollowEdges) -> Found:
    """Where the prompt would change the picture and contradicts it; where it contradicts nothing, all the rest.

    Nothing, where it fits the rest too.
    """
    salient, ratio = _salient_and_ratio(evidence)
    contradicts, explained = _contradicts(ratio), _explains(ratio)
    # where nothing is explained, what stands out is kept
    explained = torch.where(explained.amax((-2, -1), keepdim=True) > 0, explained, 1.0)
    contradicted, fitting = rescale_to_unit(salient * torch.stack([contradicts, explained]))
    peak = _peak(salient, ratio)
    fits = peak < FITTING
    # a constant map says nothing: it fits, but leaves no rest
    fits = fits & (salient.amax((-2, -1)) > 0)
    if evidence.rest_ratio is not None:
        # a rest of which the prompt says nothing is not what it is about, if it contradicts something else at all
        fits = fits & ((evidence.rest_ratio < STAYS) | (evidence.rest_ratio >= NEW) | (peak < 1))
    place = torch.where(fits[:, None, None], 1 - fitting, contradicted)
    rough = place

    def find_roles() -> WordRoles:
        return _roles(rough, rescale_to_unit(evidence.propagated[:, FIRST_PROPAGATED:]), chosen, settings)

    if chosen:
        words = rescale_to_unit(torch.stack([evidence.propagated[:, FIRST_PROPAGATED + number] for number in chosen]))
        place, fits = rescale_to_unit(words.mean(0)), torch.zeros_like(fits)
    size = evidence.image_latent.shape[-2], evidence.image_latent.shape[-1]
    radius = 2 * max(1, round(size[0] / place.shape[-2]))
    soft = follow(resize(place, size), evidence.image_latent, radius)
    soft = centre_threshold(rescale_to_unit(blur(soft, settings.blur)))
    if evidence.rest_ratio is not None:
        unchanged = fits & (evidence.rest_ratio < STAYS)
        soft = torch.where(unchanged[:, None, None], 0.0, soft)
    return soft, find_roles, fits


def _by_attention(evidence: Evidence, chosen: list[int], settings: MaskSettings) -> Found:
    """The published method; the words get their roles from the first step (docs/method.md, 4)."""
    size = evidence.image_latent.shape[-2], evidence.image_latent.shape[-1]
    roles = _roles(*_prepared(evidence.first, size), chosen, settings)
    _, words = _prepared(evidence.maps, size)
    inside = rescale_to_unit(_weighted_mean(words, roles.weights > 0))
    outside = rescale_to_unit(_weighted_mean(words, roles.weights < 0))
    soft = rescale_to_unit(blur((inside - outside).clamp(min=0), settings.blur))
    return soft, lambda: roles, torch.zeros(len(soft), dtype=torch.bool, device=soft.device)


def _prepared(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The rough foreground ``[B, H, W]`` and the word maps ``[B, words, H, W]``, each in 0..1 (docs/method.md, 4.1)."""
    maps = torch.nan_to_num(maps, 0.0, 0.0, 0.0)
    start = maps[:, START : START + 1]
    maps = torch.cat([start.amax((-2, -1), keepdim=True) - start, maps[:, FIRST_WORD:]], 1)
    maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=TINY)
    maps = rescale_to_unit(functional.interpolate(maps, size, mode="bicubic", align_corners=False))
    return maps[:, 0], maps[:, 1:]


def _roles(rough: Tensor, word_maps: Tensor, chosen: list[int], settings: MaskSettings) -> WordRoles:
    """Index word and weights by cosine similarity (docs/method.md, 4.2 and 4.3)."""
    reference, words = (functional.normalize(maps.flatten(-2), dim=-1, eps=TINY) for maps in (rough, word_maps))
    likeness = torch.einsum("bn,bwn->bw", reference, words)
    # number by number: a list as an index would be copied to the device, which waits for it
    for number in set(range(words.shape[1])).difference(chosen) if chosen else ():
        likeness[:, number] = -torch.inf
    index = likeness.argmax(1)
    index_map = words.take_along_dim(index[:, None, None], 1)
    similarity = torch.einsum("bwn,bkn->bw", words, index_map)
    weights = (similarity >= settings.positive).float() - (similarity <= settings.negative).float()
    if chosen:
        weights = weights.clamp(max=0)
        for number in chosen:
            weights[:, number] = 1
    return WordRoles(index, weights.scatter(1, index[:, None], 1.0))


def _weighted_mean(maps: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen words ``[B, words]``; zero where none is chosen."""
    share = chosen.float() / chosen.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bwhx,bw->bhx", maps, share)


def _expanded(mask: InstantMask, batch: int) -> InstantMask:
    roles = WordRoles(mask.roles.index.expand(batch), mask.roles.weights.expand(batch, -1))
    soft, binary = (part.expand(batch, -1, -1) for part in (mask.soft, mask.binary))
    return InstantMask(soft, binary, roles, mask.confidence.expand(batch), mask.fits.expand(batch))
