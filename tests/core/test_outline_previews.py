"""The mask's outline in the preview: where it is drawn, and that it is seen."""

import pytest
import torch

from instdiff_core.drawing import MarchingAnts, find_white_and_black

FACTORS = [[0.35, 0.23, 0.32], [0.33, 0.50, 0.24], [-0.28, 0.18, 0.27], [-0.21, -0.26, -0.72]]
LIGHT, DARK = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])


def grey(batch=1, size=(8, 10)):
    return torch.zeros(batch, 2, *size)


def box(size=(8, 10), rows=(2, 6), columns=(3, 8)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def drawn(mask, step=0):
    return MarchingAnts(LIGHT, DARK).draw(grey(len(mask), mask.shape[1:]), mask, step)[:, 0]


@pytest.mark.parametrize("bias", [None, [0.1, -0.02, 0.0]])
def test_the_latents_for_white_and_black_are_shown_as_such(bias):
    for latent, colour in zip(find_white_and_black(FACTORS, bias), (1.0, -1.0), strict=True):
        shown = latent @ torch.tensor(FACTORS) + torch.tensor(bias or [0.0] * 3)
        torch.testing.assert_close(shown, torch.full((3,), colour), atol=1e-5, rtol=0)


def test_the_outline_is_the_mask_s_own_border_and_nothing_else_changes():
    expected = box() & ~box(rows=(3, 5), columns=(4, 7))
    assert torch.equal(drawn(box()) != 0, expected)


def test_the_border_of_the_picture_is_no_edge():
    everything = torch.ones(1, 8, 10, dtype=torch.bool)
    assert not drawn(everything).any()
    left_half = box(rows=(0, 8), columns=(0, 5))
    assert torch.equal((drawn(left_half) != 0).nonzero()[:, 2].unique(), torch.tensor([4]))


def test_an_empty_mask_has_no_outline():
    assert not drawn(torch.zeros(1, 8, 10, dtype=torch.bool)).any()


@pytest.mark.parametrize("across", [1, 0, -1], ids=["diagonal", "upright", "other diagonal"])
def test_an_edge_of_any_direction_has_both_dashes(across):
    """A line of single pixels, as an edge is."""
    mask = torch.zeros(1, 12, 24, dtype=torch.bool)
    for row in range(12):
        mask[0, row, 12 + across * row - (12 if across > 0 else 0)] = True
    values = drawn(mask)[mask]
    assert set(values.tolist()) == {1.0, -1.0}
    assert (values == 1).float().mean() == 0.5


def test_a_level_edge_has_both_dashes():
    assert set(drawn(box())[0, 2, 3:8].tolist()) == {1.0, -1.0}


def test_the_dashes_move_with_the_steps():
    steps = [drawn(box(), step) for step in range(5)]
    assert not torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[4])
    assert torch.equal(steps[0], -steps[2])


def test_every_picture_of_a_batch_has_its_own_outline():
    masks = torch.cat([box(), box(rows=(1, 3))])
    assert torch.equal(drawn(masks), torch.cat([drawn(mask[None]) for mask in masks]))


def test_the_latents_themselves_stay_as_they_are():
    latents = grey()
    MarchingAnts(LIGHT, DARK).draw(latents, box(), 0)
    assert not latents.any()


def test_latents_of_half_precision_stay_so():
    assert MarchingAnts(LIGHT, DARK).draw(grey().half(), box(), 0).dtype == torch.float16
