"""Figures that reports print."""

import math

import numpy as np
import pytest

from instdiff_core.metrics import iou, psnr_outside


def square(top, left, side=4, size=10):
    mask = np.zeros((size, size), dtype=bool)
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


def test_psnr_sees_only_what_lies_outside_the_mask():
    before = np.full((10, 10, 3), 250, np.uint8)
    after, mask = before.copy(), square(2, 2)
    after[mask] = 3
    assert psnr_outside(before, after, mask) == math.inf
    after[~mask] = 255
    assert psnr_outside(before, after, mask) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_outside(after, before, mask) == pytest.approx(20 * math.log10(255 / 5))


def test_a_mask_over_everything_leaves_nothing_to_differ():
    picture = np.zeros((4, 4, 3), np.uint8)
    assert psnr_outside(picture, picture + 9, np.ones((4, 4), dtype=bool)) == math.inf
