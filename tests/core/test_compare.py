"""What an edit changed, in figures and in pictures."""

import pytest
import torch

from instdiff_core.drawing import AMPLIFIED, BLUE, ORANGE, draw_outline, show_difference, show_masks
from instdiff_core.metrics import ssim, ssim_outside


def pictures(height=40, width=56):
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(2, height, width, 3, generator=generator)
    after = (before + 0.1 * torch.randn(before.shape, generator=generator)).clamp(0, 1)
    return before, after


def test_equal_pictures_are_wholly_similar_and_a_negative_is_not_at_all():
    before, _ = pictures()
    torch.testing.assert_close(ssim(before, before), torch.ones_like(before))
    negative = ssim(before, 1 - before)
    assert negative.mean() < 0
    assert negative.min() >= -1


def test_what_is_inside_the_mask_has_no_part_in_it():
    before, after = pictures()
    mask = torch.zeros(2, 40, 56, dtype=torch.bool)
    mask[0, 10:30, 10:30] = True
    inside_only = torch.where(mask.unsqueeze(-1), after, before)
    torch.testing.assert_close(ssim_outside(before, inside_only, mask), torch.ones(2))
    assert (ssim_outside(before, after, mask) < 0.99).all()


def test_a_mask_of_everything_leaves_nothing_to_differ():
    before, after = pictures()
    assert ssim_outside(before, after, torch.ones(2, 40, 56, dtype=torch.bool)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_pictures_smaller_than_the_window_can_be_measured(size):
    before, after = pictures(*size)
    assert ssim(before, after).isfinite().all()


def test_a_difference_is_shown_amplified_and_equal_is_black():
    before = torch.full((1, 2, 2, 3), 0.5)
    after = before.clone()
    after[0, 0, 0] = torch.tensor([0.5, 0.6, 0.0])
    shown = show_difference(before, after)
    torch.testing.assert_close(shown[0, 0, 0], torch.tensor([0.0, 0.1 * AMPLIFIED, 1.0]))
    assert not shown[0, 1].any()


def test_two_masks_show_in_their_colours_and_white_where_they_agree():
    mask = torch.tensor([[[True, True, False, False]]])
    other = torch.tensor([[[True, False, True, False]]])
    expected = torch.tensor([(1.0, 1.0, 1.0), ORANGE, BLUE, (0.0, 0.0, 0.0)])
    torch.testing.assert_close(show_masks(mask, other)[0, 0], expected)


def test_an_outline_lies_just_outside_the_mask():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 3:6, 3:6] = True
    drawn = (draw_outline(torch.zeros(1, 9, 9, 3), mask, ORANGE) == torch.tensor(ORANGE)).all(-1)
    assert drawn[0, 2:7, 2:7].sum() == drawn.sum() == 16
    assert not (drawn & mask).any()


def test_the_outline_stays_visible_in_a_large_picture():
    mask = torch.zeros(1, 1024, 1024, dtype=torch.bool)
    mask[0, 500:520, 500:520] = True
    drawn = draw_outline(torch.zeros(1, 1024, 1024, 3), mask, BLUE)[0].any(-1)
    assert drawn[500, 490:500].sum() == 4
