"""Masks that are grown, shrunk, smoothed and filled."""

import pytest
import torch

from instdiff_core.blend import feather_mask
from instdiff_core.options import MaskShape
from instdiff_core.shape import shape_masks


def ring(size=60, outer=20, inner=8):
    """A ring in the middle of a mask ``[1, size, size]``."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = (rows - size / 2) ** 2 + (columns - size / 2) ** 2
    return ((distance <= outer**2) & (distance >= inner**2))[None]


def test_without_a_shape_a_mask_is_what_it_was():
    mask = ring()
    assert shape_masks(mask, MaskShape()) is mask


def test_a_mask_grows_as_the_finish_grows_it():
    assert torch.equal(shape_masks(ring(), MaskShape(grow=5)), feather_mask(ring().float(), 5, 0)[0])


def test_shrinking_takes_off_what_growing_of_the_rest_covers():
    assert torch.equal(shape_masks(ring(), MaskShape(grow=-4)), ~shape_masks(~ring(), MaskShape(grow=4)))


def test_shrinking_leaves_a_mask_at_the_border_of_the_picture():
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[:, :, :12] = True
    expected = torch.zeros_like(mask)
    expected[:, :, :7] = True
    assert torch.equal(shape_masks(mask, MaskShape(grow=-5)), expected)
    assert shape_masks(torch.ones(1, 8, 8, dtype=torch.bool), MaskShape(grow=-50)).all()


def test_holes_are_filled_whatever_their_size_and_bays_are_not():
    filled = shape_masks(ring(), MaskShape(fill_holes=True))
    assert torch.equal(filled, ring(inner=0))
    open_ring = ring()
    open_ring[:, 30] = False
    assert torch.equal(shape_masks(open_ring, MaskShape(fill_holes=True)), open_ring)


def test_smoothing_takes_threads_and_notches_away_and_leaves_straight_edges():
    square = torch.zeros(1, 80, 80, dtype=torch.bool)
    square[:, 20:60, 20:60] = True
    rough = square.clone()
    rough[:, 40, 60:75] = True
    rough[:, 20:30, 40] = False
    smooth = shape_masks(rough, MaskShape(smooth=3))
    corners = [(row, column) for row in (20, 59) for column in (20, 59)]
    assert all(not smooth[0, row, column] for row, column in corners)
    assert (smooth ^ square).sum() < 40
    assert not smooth[:, :, 62:].any()
    assert smooth[:, 24:30, 40].all()


@pytest.mark.parametrize("values", [{"smooth": -1}, {"smooth": 65}, {"grow": 257}, {"grow": -257}])
def test_a_shape_out_of_range_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        MaskShape(**values)
