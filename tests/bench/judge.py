"""The figures of one edit: how right its mask is, whether it shows, and what else it changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from instdiff_core.metrics import boundary_f, iou, precision_recall, psnr_outside
from instdiff_core.pipeline import Edit, Picture

from . import classifier
from .common import Mask, interval
from .scenes import GROUPS, Scene, colours

Figures = dict[str, float | None]
"""None where a figure has no meaning."""

BEST_PSNR = 100.0
"""What an equal picture counts as, in dB."""

SANE = (0.005, 0.6)
"""Where no exact mask exists: the smallest and the largest part of the picture that may be masked."""

FIGURES = {
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "boundary_f": "boundary F",
    "edit_success": "success",
    "edit_success_unfinished": "success, unfinished",
    "psnr_outside": "PSNR outside",
    "psnr_outside_unfinished": "PSNR unfinished",
    "kept": "kept",
    "kept_psnr": "kept PSNR",
    "area": "area",
    "sane": "sane",
    "index_word_right": "index word",
    "confidence": "confidence",
    "unet_evals": "U-Net rows",
    "mask_evals": "for the mask",
    "seconds": "seconds",
}
"""Every figure and its title."""


def judged(group: str, scene: Scene, edit: Edit, instant: bool) -> Figures:
    """The figures of an edit that can be seen in it; `instant` says that its mask is an instant mask.

    The PSNR is taken outside the truth, so that no method gains from a mask that is too large.
    """
    mask, truth = edit.mask.binary[0].numpy(), scene.truth
    area = float(mask.mean())
    figures: Figures = dict.fromkeys(("iou", "precision", "recall", "boundary_f", "sane"))
    if truth is None:
        low, high = (0, 0) if group == "nothing to change" else SANE
        figures["sane"] = float(low <= area <= high)
    else:
        pair = edit.mask.binary[0], torch.from_numpy(truth)
        precision, recall = map(float, precision_recall(*pair))
        figures |= {"iou": float(iou(*pair)), "precision": precision, "recall": recall}
        figures["boundary_f"] = float(boundary_f(*pair))
    for name, picture in (("", edit.picture), ("_unfinished", edit.unfinished)):
        figures[f"psnr_outside{name}"] = None if truth is None else _psnr(scene.picture, picture, truth)
        figures[f"edit_success{name}"] = _succeeded(group, scene, picture, mask)
    return figures | {
        "kept": _kept(scene, edit.picture),
        "kept_psnr": None if scene.kept_mask is None else _psnr(scene.picture, edit.picture, ~scene.kept_mask),
        "area": area,
        "index_word_right": float(edit.facts["index_word"].casefold() in scene.words) if instant else None,
        "confidence": float(edit.mask.confidence[0]) if instant else None,
    }


def summary(figures: Sequence[Figures]) -> dict[str, float | list[float] | None]:
    """The mean of every figure over the edits that have it, and its bootstrap 95 % interval as "<figure>_interval"."""
    found: dict[str, float | list[float] | None] = {}
    for name in FIGURES:
        values = [value for each in figures if (value := each[name]) is not None]
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_interval"] = list(interval(values)) if values else None
    return found


def _succeeded(group: str, scene: Scene, picture: Picture, mask: Mask) -> float | None:
    """1 when the picture shows the edit; none for pictures of others, which the classifier does not know."""
    if group not in GROUPS:
        return None
    if group == "nothing to change":
        return _kept(scene, picture)
    if group == "background":
        assert scene.truth is not None
        mean = picture[scene.truth].mean(0)
        distances = {word: float(np.linalg.norm(mean - colour)) for word, colour in colours().items()}
        changed = min(distances, key=distances.__getitem__) == scene.target
        return float(changed and _kept(scene, picture) == 1)
    return _recognised(picture, mask if scene.truth is None else scene.truth, scene.target)


def _kept(scene: Scene, picture: Picture) -> float | None:
    """1 when the object that must stay is still recognised; none where there is no such object."""
    if scene.kept is None or scene.kept_mask is None:
        return None
    return _recognised(picture, scene.kept_mask, scene.kept)


def _recognised(picture: Picture, area: Mask, word: str) -> float:
    """1 when the classifier sees `word` in the square around the area, with a tenth of its size to spare."""
    return float(classifier.name(np.stack([classifier.cut(picture, area)]))[0] == word)


def _psnr(before: Picture, after: Picture, mask: Mask) -> float:
    return min(BEST_PSNR, float(psnr_outside(*map(torch.from_numpy, (before, after, mask)))))
