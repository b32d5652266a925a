"""What limits the masks: the model, the layers that are read, or the method.

    python -m tests.bench.levels [--scenes 24] [--seed-offset 0]

Edits each scene once for every attention grid, with that grid's own masks in the loop, and prints
the mean mask IoU by signal, grid and number of steps used: at thresholds 0.2 and 0.3, at Otsu's,
and at the best in hindsight, each scene's own. The signals: the maps refined as the preset
`paper` does, the plain map of the object asked for, the inverse of the start token's map, and the
difference that the prompt makes to the predicted noise.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from instdiff_core import pipeline
from instdiff_core.attention import AttentionRecord
from instdiff_core.refine import FIRST_WORD, PRESETS, START, refine_record, unit_range

from .common import Mask, Scene, add_scene_options, device, fresh_scenes

LEVELS = (1, 2)
"""U-Net levels with cross-attention: grids of 1/2 and 1/4 of the latent."""

STEPS = (1, 5, 13, 25)
THRESHOLDS = np.linspace(0.02, 0.98, 49)

Map = NDArray[np.float32]
"""A soft mask at picture size, 0..1."""


def signals(record: AttentionRecord, differences: Tensor, target: str, steps: int) -> Iterator[tuple[str, Map]]:
    """The soft mask of every signal, from the first `steps` of a run."""
    maps = record.maps[:steps].float().mean(0)
    noun = FIRST_WORD + record.words.texts.index(target)
    yield "paper", refine_record(record, PRESETS["paper"], steps).soft[0].numpy()
    yield "noun", _at_size(maps[:, noun], record.image_size)
    yield "inverse start", _at_size(-maps[:, START], record.image_size)
    yield "guidance", _at_size(differences[:steps].mean(0, keepdim=True), record.image_size)


def otsu(soft: Map) -> float:
    """The threshold with the largest variance between the two sides (Otsu 1979)."""
    above = (soft > THRESHOLDS[:, None, None]).reshape(len(THRESHOLDS), -1)
    share = above.mean(1)
    total = (above * soft.ravel()).mean(1)
    between = np.square(total - share * soft.mean()) / np.maximum(share * (1 - share), 1e-9)
    return float(THRESHOLDS[between.argmax()])


def ious(soft: Map, truth: Mask) -> tuple[float, float, float, float]:
    """The IoU at 0.2, at 0.3, at Otsu's threshold and at the best one."""
    candidates = np.concatenate([[0.2, 0.3, otsu(soft)], THRESHOLDS])
    masks = soft >= candidates[:, None, None]
    scores = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
    at_low, at_high, at_otsu = scores[:3].tolist()
    return at_low, at_high, at_otsu, float(scores.max())


@contextmanager
def differences_of(model: pipeline.EditModel) -> Iterator[list[Tensor]]:
    """Collects ``[h, w]`` for every model call: how far apart the noise with and without the prompt is."""
    found: list[Tensor] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        without, wanted = output.sample.float().chunk(2)
        found.append((wanted - without).abs().mean((0, 1)).cpu())

    hook = model.unet.register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def run(model: pipeline.EditModel, scene: Scene, level: int, seed: int) -> tuple[AttentionRecord, Tensor]:
    """Edit a scene reading one level, without finish: the record, and the noise differences ``[steps, h, w]``."""
    with patch.object(pipeline, "LEVEL", level), differences_of(model) as differences:
        edit = pipeline.edit(
            model, scene.picture, scene.prompt, settings=PRESETS["paper"], seed=seed, finish_strength=0
        )
    return edit.record, torch.stack(differences)


def _at_size(maps: Tensor, size: tuple[int, int]) -> Map:
    """A map ``[1, h, w]`` at picture size, stretched to 0..1."""
    enlarged = functional.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0]
    return unit_range(enlarged)[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_scene_options(parser, 24)
    options = parser.parse_args()
    model = pipeline.load_mini(device())
    scores: dict[tuple[str, int, int], list[tuple[float, ...]]] = defaultdict(list)
    nouns: dict[int, list[bool]] = defaultdict(list)
    for number, scene in enumerate(fresh_scenes(options.scenes, options.seed_offset), options.seed_offset):
        for level in LEVELS:
            record, differences = run(model, scene, level, number)
            index = int(refine_record(record, PRESETS["paper"], 1).roles.index[0])
            nouns[level].append(record.words.texts[index] == scene.target)
            for steps in STEPS:
                for name, soft in signals(record, differences, scene.target, steps):
                    scores[name, level, steps].append(ious(soft, scene.mask))
    print(f"{'signal':16}{'grid':>6}{'steps':>7}" + "".join(f"{name:>9}" for name in ("0.2", "0.3", "Otsu", "best")))
    for (name, level, steps), values in sorted(scores.items()):
        print(f"{name:16}{f'1/{2**level}':>6}{steps:7}" + "".join(f"{value:9.2f}" for value in np.mean(values, 0)))
    for level, right in nouns.items():
        print(f"grid 1/{2**level}: the index word is the object in {sum(right)} of {len(right)}")


if __name__ == "__main__":
    main()
