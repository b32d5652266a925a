"""The figures of one edit: how right its mask is, whether it shows, and what else it changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from instdiff_core.arrays import Mask
from instdiff_core.components import clean_masks
from instdiff_core.maps import find_otsu_threshold, rescale_to_unit
from instdiff_core.metrics import boundary_f, iou, precision_recall, psnr_outside
from instdiff_core.pipeline import Edit, Picture

from . import classifier
from .common import interval
from .scenes import GROUPS, Scene, colours

Figures = dict[str, float | None]
"""None where a figure has no meaning."""

BEST_PSNR = 100.0
"""What an equal picture counts as, in dB."""

SANE = (0.005, 0.6)
"""Where no exact mask exists: the smallest and the largest part of the picture that may be masked."""

SOFTENED = 5
"""Pixels by which the difference of two pictures is blurred, so that what is new is one part of it. Of composed
objects on other examples of their grounds, each of 16 on each of 6, all are then recognised there."""

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
        figures[f"edit_success{name}"] = _succeeded(group, scene, picture)
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


def _succeeded(group: str, scene: Scene, picture: Picture) -> float | None:
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
    area = find_most_changed(scene.picture, picture) if scene.truth is None else scene.truth
    return float(classifier.shows(picture, area, scene.target))


def find_most_changed(before: Picture, after: Picture) -> Mask:
    """The largest part of where `after` differs most: what is new, without the ground that was painted around it."""
    difference = gaussian_filter(np.abs(after - before.astype(np.float32)).max(-1), SOFTENED)
    maps = rescale_to_unit(torch.from_numpy(difference)[None])
    if not maps.any():
        return np.zeros(difference.shape, bool)
    most = maps > find_otsu_threshold(maps[maps > 0].view(1, 1, -1))[:, None, None]
    return np.asarray(clean_masks(most, 1.0)[0])


def _kept(scene: Scene, picture: Picture) -> float | None:
    """1 when the object that must stay is still recognised; none where there is no such object."""
    if scene.kept is None or scene.kept_mask is None:
        return None
    return float(classifier.shows(picture, scene.kept_mask, scene.kept))


def _psnr(before: Picture, after: Picture, mask: Mask) -> float:
    return min(BEST_PSNR, float(psnr_outside(*map(torch.from_numpy, (before, after, mask)))))
