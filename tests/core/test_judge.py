"""What the benchmark's judge of edits takes for an object, and what not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from instdiff_core.metrics import iou
from instdiff_core.mini.scenes import compose
from tests.bench.classifier import NOTHING, classes, name
from tests.bench.classifier_training import HELD_OUT_SEED, examples, ruined
from tests.bench.judge import find_most_changed


@pytest.mark.parametrize("varied", [False, True], ids=["filling the square", "cut off, small and off its middle"])
def test_objects_are_named(varied: bool) -> None:
    cuts, _, labels = examples(np.random.default_rng(HELD_OUT_SEED), 60, varied=varied)
    assert np.mean(np.array(name(cuts)) == np.array(classes())[labels]) > 0.9


def test_ruined_objects_are_seldom_named() -> None:
    rng = np.random.default_rng(HELD_OUT_SEED)
    cuts, shapes, labels = examples(rng, 60, varied=False)
    named = np.array(name(ruined(rng, cuts, shapes, labels))) == np.array(classes())[labels]
    assert named[labels != classes().index(NOTHING)].mean() < 0.2


def test_what_is_new_is_found_without_the_ground_painted_around_it() -> None:
    before, _ = compose(np.random.default_rng(1), [], "grass")
    new, [truth] = compose(np.random.default_rng(2), ["cat"], "grass")
    assert iou(torch.from_numpy(find_most_changed(before, new)), torch.from_numpy(truth)) > 0.7
    assert not find_most_changed(before, before).any()
