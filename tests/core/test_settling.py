"""When a mask counts as settled, and what of the latent is computed from then on."""

import pytest
import torch

from instdiff_core.settling import STEADY, Settling, frame_masks

SURE = torch.tensor([0.9, 0.9])


def square(top, left, side, size=(32, 32), batch=2):
    mask = torch.zeros(batch, *size, dtype=torch.bool)
    mask[:, top : top + side, left : left + side] = True
    return mask


def settles(masks, confidence=SURE):
    """The step, counted from 1, at which the masks have settled; None: they have not."""
    settling = Settling()
    return next((number for number, mask in enumerate(masks, 1) if settling.add(mask, confidence)), None)


def test_a_mask_settles_when_it_agrees_with_that_of_the_step_before_for_some_steps():
    assert settles([square(4, 4, 10)] * 9) == 1 + STEADY
    moving = [square(4, place, 10) for place in range(6)]
    assert settles(moving) is None
    assert settles([*moving, *[square(4, 5, 10)] * 9]) == len(moving) + STEADY


def test_a_mask_that_no_step_changes_settles_at_once_where_it_is_sure():
    assert Settling().add(square(4, 4, 10), SURE, is_steady=True)
    assert not Settling().add(square(4, 4, 10), torch.tensor([0.9, 0.5]), is_steady=True)


def test_all_pictures_of_a_batch_must_settle():
    one_moves = [torch.cat([square(4, 4, 10, batch=1), square(4, place, 10, batch=1)]) for place in range(6)]
    assert settles(one_moves) is None


@pytest.mark.parametrize("confidence", [0.5, float("nan")])
def test_an_unsure_mask_does_not_settle(confidence):
    assert settles([square(4, 4, 10)] * 9, torch.tensor([0.9, confidence])) is None


def test_an_empty_mask_does_not_settle():
    assert settles([torch.zeros(2, 32, 32, dtype=torch.bool)] * 9) is None


def test_the_frame_has_its_margin_and_lies_on_the_grid_of_the_model():
    assert frame_masks(square(10, 20, 4), 3, 4) == (slice(4, 20), slice(16, 28))
    assert frame_masks(square(0, 28, 4), 3, 4) == (slice(0, 8), slice(24, 32))


def test_the_frame_holds_the_masks_of_all_pictures():
    masks = torch.cat([square(2, 2, 2, batch=1), square(12, 12, 2, batch=1)])
    assert frame_masks(masks, 0, 1) == (slice(2, 14), slice(2, 14))


def test_the_frame_ends_where_an_odd_picture_does():
    assert frame_masks(square(25, 30, 4, (33, 45)), 4, 8) == (slice(16, 33), slice(24, 40))


def test_there_is_no_frame_of_an_empty_mask_or_of_most_of_the_picture():
    assert frame_masks(torch.zeros(1, 8, 8, dtype=torch.bool), 1, 1) is None
    assert frame_masks(square(2, 2, 26), 2, 4) is None
