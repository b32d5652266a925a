"""The paper's figures of edited pictures, by the libraries of the field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from instdiff_core.arrays import Mask
from instdiff_core.pipeline import Picture

from .networks import Networks
from .scenes import Scene

BATCH = 16

BEST_PSNR = 100.0
"""What an equal picture counts as, in dB."""

Value = TypeVar("Value")

FIGURES = {
    "iou": "mask IoU",
    "lpips": "LPIPS",
    "fid": "FID",
    "csfid": "CSFID",
    "clip": "CLIP score",
    "psnr": "PSNR outside",
    "ssim": "SSIM outside",
    "structure": "structure",
    "seconds": "seconds",
    "unet_evals": "U-Net evals",
}
"""Every figure and its title."""

LOWER = frozenset({"lpips", "fid", "csfid", "structure", "seconds", "unet_evals"})
"""Figures of which a lower one is better."""

Figures = dict[str, float | None]
"""None where a figure has no meaning."""


@dataclass(frozen=True)
class EditedScene:
    """A scene, what a method made of it, and where it did so."""

    scene: Scene
    picture: Picture
    mask: Mask


def measure(
    edits: Callable[[], Iterable[EditedScene]],
    networks: Networks,
    references: Callable[[str], Iterable[Picture]],
    structure: bool,
) -> Figures:
    """The means of the figures over edited scenes, which `edits` gives again each time; without cost.

    FID is to the scenes' own pictures, CSFID the mean of the FID of each class of edit prompts to the
    pictures that `references` has of that class; a class needs two of each.
    """
    values: dict[str, list[float]] = defaultdict(list)
    fid = networks.frechet()
    classes: dict[str, list[Picture]] = defaultdict(list)
    for batch in _batches(edits()):
        before, after = (
            _stack(pictures) for pictures in zip(*((e.scene.picture, e.picture) for e in batch), strict=True)
        )
        prompts, areas = [edit.scene.prompt for edit in batch], [edit.scene.truth for edit in batch]
        values["lpips"] += networks.distance(before, after).tolist()
        values["clip"] += networks.score(after, prompts, areas).tolist()
        if structure:
            values["structure"] += networks.structure(before, after).tolist()
        for edit in batch:
            classes[edit.scene.prompt].append(edit.picture)
            for name, value in outside(edit).items():
                values[name].append(value)
        _add(fid, before, real=True)
        _add(fid, after, real=False)
    figures: Figures = {name: float(np.mean(numbers)) for name, numbers in values.items()}
    count = sum(map(len, classes.values()))
    figures["fid"] = float(fid.compute()) if count > 1 else None
    distances = [class_distance(networks, references(prompt), pictures) for prompt, pictures in classes.items()]
    known = [distance for distance in distances if distance is not None]
    figures["csfid"] = float(np.mean(known)) if known else None
    return figures


def outside(edit: EditedScene) -> dict[str, float]:
    """Mask IoU, and PSNR and SSIM outside the truth; nothing for a scene without one."""
    truth = edit.scene.truth
    if truth is None:
        return {}
    area = torch.from_numpy(truth)
    before, after = (torch.from_numpy(picture).float() for picture in (edit.scene.picture, edit.picture))
    figures = {"iou": float(binary_jaccard_index(torch.from_numpy(edit.mask).int(), area.int()))}
    if area.all():
        return figures
    figures["psnr"] = min(BEST_PSNR, float(peak_signal_noise_ratio(after[~area], before[~area], data_range=255.0)))
    kept = torch.where(area[..., None], before, after)
    pair = (picture.permute(2, 0, 1)[None] for picture in (kept, before))
    _, similarity = structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
    return figures | {"ssim": float(similarity[0].mean(0)[~area].mean())}


def class_distance(networks: Networks, real: Iterable[Picture], edited: Sequence[Picture]) -> float | None:
    """The FID of a class; none where there are not two pictures of each kind."""
    real = list(real)
    if min(len(real), len(edited)) < 2:
        return None
    metric = networks.frechet()
    for pictures, is_real in ((real, True), (edited, False)):
        for batch in _batches(pictures):
            _add(metric, _stack(batch), is_real)
    return float(metric.compute())


def _add(metric: object, pictures: Tensor, real: bool) -> None:
    metric.update(pictures.to(metric.device), real=real)  # type: ignore[attr-defined]


def _stack(pictures: Sequence[Picture]) -> Tensor:
    """``[N, 3, H, W]`` uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _batches(values: Iterable[Value]) -> Iterator[list[Value]]:
    remaining = iter(values)
    return iter(lambda: list(islice(remaining, BATCH)), [])
