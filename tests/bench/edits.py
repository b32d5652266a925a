"""Two edits in one run against two runs, one after the other: masks, edits and what they cost, by method.

    python -m tests.bench.edits [--scenes 50] [--methods default,LEdits++] [--seed-offset 0] [--out FILE]

Edits pictures of two objects, each to become another (`scenes.two_edits`), with the embedded model as
`tests.bench.masks` does, whose methods these are. In one run each edit has a prompt that names what the other
leaves; in two, the second prompt names what the first run has made. Every run is finished in all of
its mask, by the prompt that says what the picture then shows. Where edits of LEdits++ overlap, which it adds,
here the first one has the pixel.

Prints for each method and way, as means with bootstrap 95 % intervals: IoU and success of the first and of the
second edit (the classifier of `tests.bench.masks`, after the finish), success of both, PSNR outside both truths, and
the U-Net rows and seconds of both edits together. --out takes every edit's figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from instdiff_core.options import INPAINTING_FINISH
from instdiff_core.pipeline import Edit, finish
from instdiff_core.refine import InstantMask

from .catalogue import SAMPLING
from .common import interval
from .judge import judged
from .masks import BATCH, counted_rows, edit_by
from .methods import METHODS
from .scenes import Scene, two_edits
from .unets import UNetEngine

DEFAULT_METHODS = ("default", "LEdits++")
FIGURES = ("IoU 1", "IoU 2", "success 1", "success 2", "both", "PSNR outside", "U-Net rows", "seconds")

FINISHING = replace(INPAINTING_FINISH, strength=0.7)
"""From less noise than a single edit, in which two things keep their places (method.md, 8)."""

Figures = dict[str, float]


def edit_at_once(engine: UNetEngine, scenes: Sequence[Scene], seeds: Sequence[int], method: str) -> list[Figures]:
    """Both edits of each scene in one run."""
    edits, costs = edit_and_finish(engine, scenes, seeds, method)
    return [figures(scene, edit, edit.masks, costs) for scene, edit in zip(scenes, edits, strict=True)]


def edit_in_turn(engine: UNetEngine, scenes: Sequence[Scene], seeds: Sequence[int], method: str) -> list[Figures]:
    """The first edit of each scene, and the second one of the picture that comes of it."""
    first, costs = edit_and_finish(engine, [scene.edits[0] for scene in scenes], seeds, method)
    then = [
        replace(scene.edits[1], picture=edit.picture, prompt=scene.prompt)
        for scene, edit in zip(scenes, first, strict=True)
    ]
    second, more = edit_and_finish(engine, then, seeds, method)
    total = {name: cost + more[name] for name, cost in costs.items()}
    return [
        figures(scene, after, (*before.masks, *after.masks), total)
        for scene, before, after in zip(scenes, first, second, strict=True)
    ]


def edit_and_finish(
    engine: UNetEngine, scenes: Sequence[Scene], seeds: Sequence[int], method: str
) -> tuple[list[Edit], dict[str, float]]:
    """Scenes edited by a method and finished, and what each of them has cost."""
    edits, costs = edit_by(engine, engine.prepare(scenes, seeds), method)
    started = time.perf_counter()
    with counted_rows(engine) as rows:
        finished = [
            finish(engine.model, scene.picture, edit.mask.binary[0].numpy(), edit.latent, scene.prompt,
                   options=FINISHING, seed=seed)
            for scene, edit, seed in zip(scenes, edits, seeds, strict=True)
        ]  # fmt: skip
    costs["unet_evals"] += sum(rows) / len(scenes)
    costs["seconds"] += (time.perf_counter() - started) / len(scenes)
    return [replace(edit, picture=picture) for edit, picture in zip(edits, finished, strict=True)], costs


def figures(scene: Scene, edit: Edit, masks: Sequence[InstantMask], costs: dict[str, float]) -> Figures:
    """The figures of the two edits of a scene, whose last one gave this picture."""
    of_edits = [
        judged("one object", part, replace(edit, masks=(mask,)), instant=False)
        for part, mask in zip(scene.edits, masks, strict=True)
    ]
    ious, successes = ([float(each[name] or 0) for each in of_edits] for name in ("iou", "edit_success"))
    outside = judged("one object", scene, edit, instant=False)["psnr_outside"]
    values = (*ious, *successes, min(successes), float(outside or 0), costs["unet_evals"], costs["seconds"])
    return dict(zip(FIGURES, values, strict=True))


WAYS = {"at once": edit_at_once, "in turn": edit_in_turn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50, help="default: 50")
    parser.add_argument("--methods", default=",".join(DEFAULT_METHODS), help="default: %(default)s")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first scene; default: 0")
    parser.add_argument("--out", type=Path, help="a file for every edit's figures")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := [method for method in methods if method not in METHODS]:
        parser.error(f"no method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    engine = UNetEngine(None, SAMPLING, replace(FINISHING, strength=0))
    results: dict[str, list[Figures]] = defaultdict(list)
    numbered = enumerate(two_edits(options.scenes, options.seed_offset), options.seed_offset)
    for batch in iter(lambda: list(islice(numbered, BATCH)), []):
        seeds, scenes = zip(*batch, strict=True)
        for method in methods:
            for way, edit in WAYS.items():
                results[f"{method}, {way}"] += edit(engine, scenes, seeds, method)
    print(f"{'':22}" + "".join(f"{name:>21}" for name in FIGURES))
    for row, of_scenes in results.items():
        print(f"{row:22}" + "".join(_cell([each[name] for each in of_scenes]) for name in FIGURES))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2), encoding="utf-8")


def _cell(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{np.mean(values):8.3f} ({low:.2f}-{high:.2f})".rjust(21)


if __name__ == "__main__":
    main()
