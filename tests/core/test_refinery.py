"""Masks that are made again and again are those that are made at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from instdiff_core.evidence import AttentionRecord
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.refine import refine_record
from instdiff_core.refinery import Refinery
from tests.records import make_pictures, make_record

WORDS = ("a", "frog", "on", "the", "grass", "frog")
both_presets = pytest.mark.parametrize("settings", PRESETS.values(), ids=PRESETS)


ROUNDING = 1e-4
"""How far soft masks of a batch may be apart that are made together and one by one."""


def check_moves(record: AttentionRecord, settings: MaskSettings, pictures: Any, moves: list[dict[str, Any]]) -> None:
    """Every move gives the soft mask and the roles that `refine_record` gives."""
    refinery = Refinery(record, settings, None if pictures is None else torch.from_numpy(pictures))
    floats = None if pictures is None else torch.from_numpy(np.float32(pictures) / np.float32(255)).movedim(-1, 1)
    apart = 0 if record.maps.shape[1] == 1 else ROUNDING
    for move in moves:
        target, steps, number = move.get("target", settings.target), move.get("steps", 3), move.get("number", 0)
        whole = refine_record(record, replace(settings, target=target), steps, floats)
        mask = refinery.refine(target, steps, number)
        torch.testing.assert_close(mask.soft[0], whole.soft[number], atol=apart, rtol=0)
        assert torch.equal(mask.roles.weights[0], whole.roles.weights[number])
        assert mask.roles.index[0] == whole.roles.index[number]
        assert mask.fits[0] == whole.fits[number]


MOVES: list[dict[str, Any]] = [
    {}, {"steps": 2}, {"target": ("grass",)}, {"number": 1}, {"target": ("Frog", "a"), "number": 1}, {},
    {"steps": 1, "number": 1}, {"steps": 1},
]  # fmt: skip


@both_presets
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("changes", [{}, {"share": True}, {"target": ("grass",), "blur": 3}], ids=str)
def test_masks_are_the_same_after_any_moves(settings, count, changes):
    record = make_record(WORDS, batch=2, seed=3)
    check_moves(record, replace(settings, **changes), make_pictures(record, count) if count else None, MOVES)


@both_presets
@pytest.mark.parametrize(
    ("grid", "latent"), [((7, 9), (13, 19)), ((1, 1), (4, 4)), ((16, 8), (64, 32)), ((3, 40), (2, 9))]
)
def test_masks_are_the_same_at_any_size(settings, grid, latent):
    record = make_record(WORDS, grid=grid, latent=latent, seed=4)
    for pictures in (None, make_pictures(record, 1)):
        check_moves(record, settings, pictures, [{}, {"target": ("frog",)}, {}])


def test_the_noise_mask_is_given_beside_the_mask_that_ends_at_it():
    record = make_record(WORDS, batch=2, latent=(24, 32), seed=3)
    noise_mask = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    masked, settings = replace(record, noise_mask=noise_mask), PRESETS["default"]
    whole, refinery = refine_record(masked, settings), Refinery(masked, settings)
    for number in (0, 1):
        inside = refinery.noise_mask(number)
        assert inside is not None
        soft = refinery.refine((), 3, number).soft[0]
        torch.testing.assert_close(torch.where(inside, soft, 0.0), whole.soft[number], atol=ROUNDING, rtol=0)
    assert Refinery(record, settings).noise_mask(0) is None


def test_word_maps_say_where_each_word_acts():
    record = make_record(WORDS, batch=2, seed=11)
    refinery = Refinery(record, PRESETS["default"])
    for steps, number in itertools.product((1, 3), (0, 1)):
        propagated = record.evidence(steps).propagated[number, 3:]
        low, high = propagated.amin((-2, -1), keepdim=True), propagated.amax((-2, -1), keepdim=True)
        torch.testing.assert_close(refinery.word_maps(steps, number), (propagated - low) / (high - low))


def test_a_word_that_is_not_in_the_prompt_is_refused():
    with pytest.raises(ValueError, match="'cat' is not in the edit prompt"):
        Refinery(make_record(WORDS), PRESETS["default"]).refine(("cat",), 3, 0)
