"""Masks without specks and holes."""

import dataclasses

import numpy as np
import pytest
import torch

from instdiff_core.components import clean_masks
from instdiff_core.evidence import AttentionRecord
from instdiff_core.metrics import boundary_f, iou
from instdiff_core.options import PRESETS
from instdiff_core.refine import refine_record
from tests.records import make_record

RNG = np.random.default_rng


def drawn(*rows):
    return torch.tensor([[letter == "#" for letter in row] for row in rows])[None]


def disc(y, x, radius, size=(256, 256)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def spoilt(mask, seed=0):
    """A mask with an eye, streaks and specks, none of which has a hundredth of its area."""
    rng = RNG(seed)
    changed = mask.copy()
    places = np.argwhere(mask)
    middle = places.mean(0).astype(int)
    changed[middle[0] - 3 : middle[0] + 4, middle[1] - 4 : middle[1] + 5] = False
    for _ in range(12):
        y, x = rng.integers(0, np.array(mask.shape) - 20)
        changed[y, x : x + rng.integers(1, 18)] ^= True
    return changed


def test_what_is_smaller_than_a_part_of_the_largest_piece_goes_and_a_hole_as_small_is_filled():
    before = drawn(
        "######....",
        "#.#.##.#..",
        "######....",
        "#..###..##",
        "#..###..##",
        "######..##",
    )
    after = drawn(
        "######....",
        "######....",
        "######....",
        "#..###..##",
        "#..###..##",
        "######..##",
    )
    assert torch.equal(clean_masks(before, 0.1), after)
    assert torch.equal(clean_masks(before, 0.0), before)


def test_a_mask_holds_together_over_corners_and_what_is_outside_does_not():
    diagonal = torch.eye(8, dtype=torch.bool)[None]
    assert torch.equal(clean_masks(diagonal, 1.0)[0].diagonal(), torch.ones(8, dtype=torch.bool))
    ring = drawn(".....", "..#..", ".#.#.", "..#..", ".....")
    assert clean_masks(ring, 0.5)[0, 2, 2]


def test_every_picture_of_a_batch_is_cleaned_by_its_own_largest_piece():
    small, large = disc(40, 40, 5), disc(150, 150, 80)
    found = clean_masks(torch.from_numpy(np.stack([small, small | large])), 0.05)
    assert torch.equal(found, torch.from_numpy(np.stack([small, large])))


@pytest.mark.parametrize("full", [True, False])
def test_an_empty_and_a_full_mask_stay_as_they_are(full):
    mask = torch.full((2, 9, 7), full)
    assert torch.equal(clean_masks(mask, 0.5), mask)


def test_two_objects_of_like_size_both_stay_and_so_does_a_large_hole():
    mask = torch.from_numpy((disc(70, 70, 50) & ~disc(70, 70, 15)) | disc(190, 190, 30))[None]
    assert torch.equal(clean_masks(mask, PRESETS["default"].min_area), mask)


@pytest.mark.parametrize("seed", range(8))
def test_specks_streaks_and_an_eye_go_by_default_and_the_object_stays(seed):
    y, x = RNG(seed).integers(100, 156, 2)
    drawn_truth = disc(y, x, 60)
    truth, before = (torch.from_numpy(mask) for mask in (drawn_truth, spoilt(drawn_truth, seed)))
    after = clean_masks(before[None], PRESETS["default"].min_area)[0]
    assert boundary_f(before, truth) < 0.97
    assert iou(after, truth) > max(0.99, float(iou(before, truth)))
    assert boundary_f(after, truth) > 0.97


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_cut_mask_of_a_record_is_cleaned(preset):
    record = make_record(("a", "frog"), seed=2, latent=(16, 16))
    picture = torch.rand(1, 3, *record.image_size, generator=torch.Generator().manual_seed(0))
    raw, clean = (
        refine_record(record, dataclasses.replace(PRESETS[preset], min_area=part), picture=picture) for part in (0, 0.3)
    )
    assert torch.equal(raw.soft, clean.soft)
    assert torch.equal(raw.confidence, clean.confidence)
    assert torch.equal(clean.binary, clean_masks(raw.binary, 0.3))


def test_a_hole_that_the_noise_mask_makes_stays():
    record = make_record(("a", "frog"), seed=2)
    noise_mask = torch.ones(1, *record.latent_size, dtype=torch.bool)
    whole = refine_record(record, dataclasses.replace(PRESETS["default"], min_area=0.1)).binary[0]
    y, x = (whole.nonzero().float().mean(0) / record.scale).int().tolist()
    noise_mask[0, y, x] = False
    masked: AttentionRecord = dataclasses.replace(record, noise_mask=noise_mask)
    found = refine_record(masked, dataclasses.replace(PRESETS["default"], min_area=0.1)).binary[0]
    assert not found[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].any()
