"""How much the masks depend on each constant of the method "change", on every model of the benchmark.

    python -m tests.bench.tune [--models all] [--scenes 8] [--seed-offset 9000]

Samples the scenes of `scenes.py` once a model, at its own strength, and refines their records again with one
constant changed at a time. Prints the mean mask IoU with the truth for every value, by model, and at last over
all models and in the worst of them; the first line is that of the code as it is. What a constant does to the
masks while sampling is therefore not part of the figures. Scenes from 0 to 49 of a group are those of the
reported results (`tests.bench.masks`): keep away from them. One model is kept out, too (`catalogue.KEPT_OUT`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from instdiff_core import evidence, maps, refine
from instdiff_core.evidence import AttentionRecord
from instdiff_core.metrics import iou
from instdiff_core.options import PRESETS
from instdiff_core.refine import refine_record

from .catalogue import KEPT_OUT, model_named, model_names
from .engines import Approach
from .masks import BATCH, Case, own_cases

GROUPS = ("one object", "two objects", "small object", "at the border", "low contrast", "phrase", "background")
"""Those whose scenes have an exact mask."""


class Power(int):
    """Takes the place of `evidence.step_weight`: a step counts by this power of its noise level."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma.clamp(max=evidence.FULL_NOISE) ** int(self)


VARIATIONS: Sequence[tuple[ModuleType, str, Sequence[Any]]] = (
    (refine, "FITS", (0.8, 0.85, 0.9, 1.0)),
    (refine, "CONTRADICTS", (1.0, 1.1, 1.3, 1.5)),
    (refine, "FITTING", (1.0, 1.03, 1.08, 1.1)),
    (refine, "SALIENT", (0.3, 0.4, 0.6, 0.7)),
    (refine, "PICTURE_RADIUS", (1, 3, 4)),
    (maps, "EDGE", (0.001, 0.003, 0.03, 0.1)),
    (maps, "LEVELS", (64, 128, 512)),
    (evidence, "FULL_NOISE", (1.5, 2.0, 3.0, 15.0)),
    (evidence, "step_weight", tuple(map(Power, (1, 2, 3, 6)))),
)


def sampled(model: str, count: int, offset: int) -> list[tuple[Case, AttentionRecord]]:
    """Every case with the record of its sampling."""
    engine = model_named(model).load()
    cases = list(own_cases(GROUPS, count, offset))
    records = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        prepared = engine.prepare([case.scene for case in batch], [case.seed for case in batch])
        edits = prepared.edit(Approach(finishes=False))
        records += [(case, edit.record) for case, edit in zip(batch, edits, strict=True)]
        print(f"{model}: {len(records)} of {len(cases)} scenes sampled", flush=True)
    return records


def mean_iou(records: Sequence[tuple[Case, AttentionRecord]]) -> dict[str, float]:
    """By group, and under "all" over all scenes, of the masks that the records give now."""
    scores: dict[str, list[float]] = {group: [] for group in GROUPS}
    for case, record in records:
        assert case.scene.truth is not None
        picture = torch.tensor(case.scene.picture).movedim(-1, 0)[None].float() / 255
        mask = refine_record(record, PRESETS["default"], picture=picture).binary[0]
        scores[case.group].append(float(iou(mask, torch.from_numpy(case.scene.truth))))
    means = {group: float(np.mean(values)) for group, values in scores.items()}
    return {"all": float(np.mean([value for values in scores.values() for value in values])), **means}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tune", description=__doc__)
    parser.add_argument("--models", default="all", help="with commas; default: all but the one kept out")
    parser.add_argument("--scenes", type=int, default=8, help="of each group; default: 8")
    parser.add_argument("--seed-offset", type=int, default=9000, help="number of the first scene; default: 9000")
    options = parser.parse_args()
    seen = [name for name in model_names() if name != KEPT_OUT]
    names = seen if options.models == "all" else options.models.split(",")
    records = {name: sampled(name, options.scenes, options.seed_offset) for name in names}
    columns = [f"{name} {group}" for name in names for group in ("all", "two objects", "background")]
    print(" | ".join(["constant", *columns, "mean", "worst"]))

    def line(label: str) -> None:
        scores = {name: mean_iou(records[name]) for name in names}
        values = [scores[name][group] for name in names for group in ("all", "two objects", "background")]
        means = [scores[name]["all"] for name in names]
        print(" | ".join([label, *(f"{value:.3f}" for value in [*values, np.mean(means), min(means)])]), flush=True)

    line("as it is")
    for module, name, values in VARIATIONS:
        for value in values:
            with patch.object(module, name, value):
                line(f"{name} {value}")


if __name__ == "__main__":
    main()
