"""How much the masks depend on how an edit is sampled: IoU over strength, cfg, steps, samplers, schedulers and sizes.

    python -m tests.bench.robustness [--scenes 3] [--seed-offset 9000] [--rows "strength 0.8,cfg"]

Edits scenes with one object in ComfyUI, through the pack's nodes, with the embedded model: as `BASE` says, and with
one thing changed at a time. Over the strength small objects and two objects too. Prints a line for each row: the mean
IoU of the finished mask with the truth, and the lowest. Other sizes are the same scenes scaled, other aspect ratios
a part of them around the object.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from instdiff_core.arrays import Mask
from instdiff_core.evidence import AttentionRecord
from instdiff_core.metrics import iou
from instdiff_core.options import PRESETS
from instdiff_core.refine import refine_record

from .catalogue import FINISHING, SAMPLING
from .hosted import HostedEngine
from .masks import Case, own_cases
from .scenes import Scene

BASE: dict[str, Any] = {"denoise": 0.5, "cfg": 7.5, "steps": 10, "sampler_name": "euler", "scheduler": "normal"}
SIDE = 256

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
WIDGETS: dict[str, Sequence[Any]] = {
    "denoise": STRENGTHS,
    "cfg": (1.0, 3.0, 7.5, 12.0),
    "steps": (4, 10, 20, 50),
    "sampler_name": ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "uni_pc"),
    "scheduler": ("normal", "karras"),
}
SIZES = ((192, 192), (256, 256), (320, 320), (384, 384), (512, 512), (192, 256), (256, 192), (144, 256))
"""``(height, width)``: squares, then 4:3, 3:4 and 16:9."""


@dataclass(frozen=True)
class Row:
    """What is changed: a widget of Masked Sampler, or the `size` ``(height, width)``; and for which scenes."""

    label: str
    group: str = "one object"
    widgets: dict[str, Any] | None = None
    size: tuple[int, int] = (SIDE, SIDE)


def rows() -> Iterator[Row]:
    """The rows of the table; what is as in `BASE` is there once for each thing that is changed."""
    for group in ("one object", "small object", "two objects"):
        for strength in STRENGTHS:
            yield Row(f"{group}, strength {strength}", group, {"denoise": strength})
    for name, values in WIDGETS.items():
        if name != "denoise":
            for value in values:
                yield Row(f"{name} {value}", widgets={name: value})
    for height, width in SIZES:
        yield Row(f"size {width} x {height}", size=(height, width))


def at_size(scene: Scene, size: tuple[int, int]) -> Scene:
    """A square scene at another size: scaled to it, or the part of it around the truth where that is no square."""
    assert scene.truth is not None
    if size[0] == size[1]:
        picture = np.asarray(Image.fromarray(scene.picture).resize(size[::-1], Image.Resampling.LANCZOS))
        truth: Mask = np.asarray(Image.fromarray(scene.truth).resize(size[::-1], Image.Resampling.NEAREST))
        return replace(scene, picture=picture, truth=truth)
    window = tuple(
        slice(start := int(np.clip(places.mean() - side / 2, 0, whole - side)), start + side)
        for places, side, whole in zip(np.nonzero(scene.truth), size, scene.truth.shape, strict=True)
    )
    return replace(scene, picture=scene.picture[window], truth=scene.truth[window])


def score(case: Case, record: AttentionRecord) -> float:
    """The IoU of the mask at the picture's size with the truth."""
    assert case.scene.truth is not None
    picture = torch.tensor(case.scene.picture).movedim(-1, 0)[None].float() / 255
    mask = refine_record(record, PRESETS["default"], picture=picture).binary[0]
    return float(iou(mask, torch.from_numpy(case.scene.truth)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.robustness", description=__doc__)
    parser.add_argument("--scenes", type=int, default=3, help="of each row; default: 3")
    parser.add_argument("--seed-offset", type=int, default=9000, help="number of the first scene; default: 9000")
    parser.add_argument("--rows", default="", help="only those whose label holds one of these texts, with commas")
    options = parser.parse_args()
    engine = HostedEngine(None, SAMPLING, FINISHING)
    measured: dict[Any, list[float]] = {}
    for row in rows():
        if not any(text in row.label for text in options.rows.split(",")):
            continue
        widgets = BASE | (row.widgets or {})
        key = row.group, row.size, tuple(widgets.items())
        if key not in measured:
            cases = own_cases([row.group], options.scenes, options.seed_offset)
            sized = [replace(case, scene=at_size(case.scene, row.size)) for case in cases]
            measured[key] = [score(case, engine.record(case.scene, case.seed, **widgets)) for case in sized]
        scores = measured[key]
        print(f"{row.label:32} {np.mean(scores):.2f}  lowest {min(scores):.2f}", flush=True)


if __name__ == "__main__":
    main()
