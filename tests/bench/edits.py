"""Edits of fresh scenes with the embedded model: how right the masks are, and whether the edits show.

    python -m tests.bench.edits --out DIR [--scenes 200] [--preset paper] [--seed-offset 0]

Each scene holds one object; the prompt is "a <other object>". The mask is compared with the
object's exact mask. An edit succeeds when the classifier finds the new object in the square
around the object that was there, with a tenth of its size to spare: the same cut for every
method and for before and after the finish, so that neither a mask that is everywhere nor an object
painted beside the old one can win. PSNR is taken outside the object's exact mask, and 100 dB stands
for an equal picture. Writes results.json and, for the first scenes, the contact sheet results.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instdiff_core.metrics import iou, psnr_outside
from instdiff_core.pipeline import Edit, EditModel, edit, finish, load_mini
from instdiff_core.refine import PRESETS, MaskSettings

from . import classifier
from .common import (
    Scene,
    add_scene_options,
    device,
    fresh_scenes,
    grey,
    interval,
    outlined,
    precision_recall,
    save_sheet,
)

SHOWN = 24
COLUMNS = ("before", "soft mask", "mask and truth", "after")
FIGURES = {
    "iou": "mask IoU",
    "precision": "mask precision",
    "recall": "mask recall",
    "found_unfinished": "new object found, before the finish",
    "found": "new object found, after the finish",
    "left": "old object still found, after the finish",
    "psnr_unfinished": "PSNR outside in dB, before the finish",
    "psnr": "PSNR outside in dB, after the finish",
    "seconds": "seconds an edit",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a scene; `seen` and `seen_unfinished` are the classifier's words for the area."""

    source: str
    target: str
    background: str
    index_word: str
    iou: float
    precision: float
    recall: float
    seen: str
    seen_unfinished: str
    psnr: float
    psnr_unfinished: float
    seconds: float

    @property
    def found(self) -> float:
        """1 when the finished picture shows the new object."""
        return float(self.seen == self.target)

    @property
    def found_unfinished(self) -> float:
        """1 when the sampler's own picture shows the new object."""
        return float(self.seen_unfinished == self.target)

    @property
    def left(self) -> float:
        """1 when the finished picture still shows the old object."""
        return float(self.seen == self.source)


def edited(model: EditModel, scene: Scene, settings: MaskSettings, seed: int) -> tuple[Edit, Outcome]:
    """Edit a scene and judge the edit."""
    start = time.perf_counter()
    result = edit(model, scene.picture, scene.prompt, settings=settings, seed=seed)
    seconds = time.perf_counter() - start
    everywhere = np.ones_like(scene.mask)
    unfinished = finish(model, scene.picture, everywhere, result.latent, scene.prompt, strength=0, grow=0, feather=0)
    mask = result.mask.binary[0].numpy()
    precision, recall = precision_recall(mask, scene.mask)
    pictures = (result.picture, unfinished)
    seen, seen_unfinished = classifier.name(np.stack([classifier.cut(each, scene.mask) for each in pictures]))
    psnr, psnr_unfinished = (min(100.0, psnr_outside(scene.picture, each, scene.mask)) for each in pictures)
    return result, Outcome(
        scene.source, scene.target, scene.background, result.report["index_word"], iou(mask, scene.mask),
        precision, recall, seen, seen_unfinished, psnr, psnr_unfinished, seconds,
    )  # fmt: skip


def images(scene: Scene, result: Edit) -> list[Image.Image]:
    """A line of the contact sheet."""
    binary = outlined(grey(result.mask.binary[0].numpy()), scene.mask)
    soft = grey(result.mask.soft[0].numpy())
    return [Image.fromarray(scene.picture), soft, binary, Image.fromarray(result.picture)]


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Mean, bootstrap interval of the mean, and median of every figure."""
    found: dict[str, dict[str, Any]] = {}
    for name in FIGURES:
        values = [getattr(outcome, name) for outcome in outcomes]
        found[name] = {"mean": float(np.mean(values)), "interval": interval(values), "median": float(np.median(values))}
    return found


def by_word(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean for each word, the lowest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for word, value in pairs:
        groups[word].append(value)
    means = {word: float(np.mean(values)) for word, values in groups.items()}
    return dict(sorted(means.items(), key=lambda entry: entry[1]))


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"\n{'':40}{'mean':>8}{'95 % interval':>18}{'median':>9}")
    for name, title in FIGURES.items():
        values = results["figures"][name]
        low, high = values["interval"]
        print(f"{title:40}{values['mean']:8.3f}{f'{low:.3f} to {high:.3f}':>18}{values['median']:9.3f}")
    tables = {"iou_by_source": "IoU by the object there was", "found_by_target": "found by the object asked for"}
    for table, title in tables.items():
        print(f"\n{title}: " + ", ".join(f"{word} {value:.2f}" for word, value in results[table].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and results.png")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper", help="mask settings; default: paper")
    add_scene_options(parser, 200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = load_mini(device())
    outcomes: list[Outcome] = []
    rows: list[tuple[str, list[Image.Image]]] = []
    for number, scene in enumerate(fresh_scenes(options.scenes, options.seed_offset), options.seed_offset):
        result, outcome = edited(model, scene, PRESETS[options.preset], number)
        outcomes.append(outcome)
        caption = f"{number}: {scene.source} -> {scene.target}, IoU {outcome.iou:.2f}, {outcome.seen} seen"
        print(caption, flush=True)
        if len(rows) < SHOWN:
            rows.append((caption, images(scene, result)))
    results = {
        "model": "mini",
        "preset": options.preset,
        "scenes": options.scenes,
        "seed_offset": options.seed_offset,
        "figures": summary(outcomes),
        "iou_by_source": by_word((outcome.source, outcome.iou) for outcome in outcomes),
        "found_by_target": by_word((outcome.target, outcome.found) for outcome in outcomes),
        "index_word_is_the_object": float(np.mean([outcome.index_word == outcome.target for outcome in outcomes])),
        "edits": [asdict(outcome) for outcome in outcomes],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    save_sheet(options.out / "results.png", COLUMNS, rows)
    show(results)


if __name__ == "__main__":
    main()
