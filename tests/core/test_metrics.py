"""Figures that reports print."""

import math

import pytest
import torch

from instdiff_core.metrics import boundary_f, iou, precision_recall, psnr_outside


def square(top, left, side=4, size=10):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [
        (square(1, 1), square(1, 1), 1.0),
        (square(0, 0), square(6, 6), 0.0),
        (square(0, 0), square(0, 2), 8 / 24),
        (square(0, 0, 0), square(0, 0), 0.0),
        (square(0, 0, 0), square(0, 0, 0), 1.0),
    ],
)
def test_iou_is_overlap_over_union(mask, truth, expected):
    assert iou(mask, truth) == pytest.approx(expected)
    assert iou(truth, mask) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [
        (square(1, 1), square(1, 1), (1.0, 1.0)),
        (square(0, 0), square(0, 2), (0.5, 0.5)),
        (square(0, 0, 2), square(0, 0), (1.0, 0.25)),
        (square(0, 0, 10), square(0, 0), (0.16, 1.0)),
        (square(0, 0, 0), square(0, 0), (0.0, 0.0)),
        (square(0, 0), square(0, 0, 0), (0.0, 0.0)),
    ],
)
def test_precision_is_of_the_mask_and_recall_of_the_truth(mask, truth, expected):
    assert precision_recall(mask, truth) == pytest.approx(expected)


def test_a_boundary_may_lie_within_the_tolerance():
    truth = square(20, 20, 40, 100)
    assert boundary_f(truth, truth) == 1.0
    # 0.0075 of a diagonal of 141 px is 2 px
    assert boundary_f(square(22, 20, 40, 100), truth) == 1.0
    assert 0.4 < boundary_f(square(23, 20, 40, 100), truth) < 0.8
    assert boundary_f(square(23, 20, 40, 100), truth, tolerance=0.02) == 1.0
    assert boundary_f(square(80, 80, 10, 100), truth) == 0.0


def test_a_boundary_is_judged_from_both_sides():
    truth = square(10, 10, 40, 100)
    both = truth | square(60, 60, 20, 100)
    precision = 160 / (160 + 80)
    assert boundary_f(both, truth) == pytest.approx(2 * precision / (precision + 1), abs=0.01)
    assert boundary_f(truth, both) == boundary_f(both, truth)


@pytest.mark.parametrize("side", [0, 10])
def test_a_mask_of_nothing_or_everything_has_no_boundary(side):
    assert boundary_f(square(0, 0, side), square(2, 2)) == 0.0
    assert boundary_f(square(2, 2), square(0, 0, side)) == 0.0
    assert boundary_f(square(0, 0, side), square(0, 0, 0)) == 1.0


def test_psnr_sees_only_what_lies_outside_the_mask():
    before = torch.full((10, 10, 3), 250, dtype=torch.uint8)
    after, mask = before.clone(), square(2, 2)
    after[mask] = 3
    assert psnr_outside(before, after, mask) == math.inf
    after[~mask] = 255
    assert psnr_outside(before, after, mask) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_outside(after, before, mask) == pytest.approx(20 * math.log10(255 / 5))


def test_a_mask_over_everything_leaves_nothing_to_differ():
    picture = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert psnr_outside(picture, picture + 9, torch.ones(4, 4, dtype=torch.bool)) == math.inf


def test_every_pair_of_a_batch_has_its_own_figures():
    masks, truths = torch.stack([square(0, 0), square(1, 1)]), torch.stack([square(0, 2), square(1, 1)])
    for figure in (iou, boundary_f, lambda mask, truth: precision_recall(mask, truth)[0]):
        assert torch.equal(
            figure(masks, truths), torch.stack([figure(*pair) for pair in zip(masks, truths, strict=True)])
        )
