"""Blending chooses values and never computes with them; pasting mixes, but only inside its area."""

import pytest
import torch

from instdiff_core.blend import feathered, keep_original, paste


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_either_side_comes_out_bit_for_bit(dtype):
    edited, original = (torch.randn(2, 4, 8, 6) * 1e3).to(dtype), (torch.randn(2, 4, 8, 6) * 1e-3).to(dtype)
    mask = torch.rand(2, 8, 6) > 0.5
    blended = keep_original(mask, edited, original)
    assert blended.dtype == dtype
    inside = mask[:, None].expand_as(edited)
    assert torch.equal(blended[inside], edited[inside])
    assert torch.equal(blended[~inside], original[~inside])


def test_a_full_mask_gives_the_edit_and_an_empty_one_the_original():
    edited, original = torch.randn(2, 1, 4, 8, 8)
    assert torch.equal(keep_original(torch.ones(1, 8, 8, dtype=torch.bool), edited, original), edited)
    assert torch.equal(keep_original(torch.zeros(1, 8, 8, dtype=torch.bool), edited, original), original)


def test_a_broken_value_on_the_other_side_does_not_leak():
    mask = torch.tensor([[[True, False]]])
    edited = torch.tensor([[[[1.0, float("nan")]]]])
    original = torch.tensor([[[[float("inf"), 2.0]]]])
    assert keep_original(mask, edited, original).tolist() == [[[[1.0, 2.0]]]]


def square(low=24, high=40, size=64):
    mask = torch.zeros(1, size, size)
    mask[:, low:high, low:high] = 1
    return mask


@pytest.mark.parametrize("grow", [0, 1, 16, 21])
def test_growing_moves_every_edge_by_that_many_pixels(grow):
    area, _ = feathered(square(), grow, 0)
    assert torch.equal(area, square(24 - grow, 40 + grow) > 0)


@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (4, 3), (8, 8), (20, 16)])
def test_the_soft_edge_lies_inside_the_area_and_its_middle_is_opaque(grow, feather):
    area, alpha = feathered(square(), grow, feather)
    assert not alpha[~area].any()
    assert alpha.max() <= 1
    assert alpha[0, 32, 32] == 1
    edge = alpha[0, 32, :33]
    assert (edge.diff() >= -1e-6).all()
    assert bool(((edge > 0) & (edge < 1)).any()) == (feather > 0)


def test_a_mask_over_everything_is_opaque_up_to_the_border():
    assert feathered(torch.ones(1, 32, 32), 3, 5)[1].min() == 1


def test_pasting_leaves_the_rest_bit_for_bit_and_keeps_an_alpha_channel():
    image, painted = torch.rand(1, 64, 64, 4), torch.rand(1, 64, 64, 3)
    area, alpha = feathered(square(), 4, 6)
    pasted = paste(image, painted, alpha)
    assert torch.equal(pasted[~area], image[~area])
    assert torch.equal(pasted[..., 3], image[..., 3])
    assert torch.equal(pasted[alpha == 1][:, :3], painted[alpha == 1])
    assert not torch.equal(pasted[area], image[area])
