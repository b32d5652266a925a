"""Blending chooses values and never computes with them; pasting mixes, but only inside its area."""

import pytest
import torch

from instdiff_core.blend import feather_edits, feather_mask, keep_original, match_colours, paste


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
    area, _ = feather_mask(square(), grow, 0)
    assert torch.equal(area, square(24 - grow, 40 + grow) > 0)


def test_what_is_grown_ends_where_another_edit_is():
    left, right = square(10, 20), square(24, 34)
    masks = torch.stack([left, right])
    for (area, alpha), own, other in zip(feather_edits(masks, 6, 6), masks, masks.flip(0), strict=True):
        grown, soft = feather_mask(own, 6, 6)
        assert (grown & (other > 0)).any()
        assert torch.equal(area, grown & (other == 0))
        assert torch.equal(alpha, soft * (other == 0))


def thin():
    """A stroke of 8 pixels."""
    mask = torch.zeros(1, 96, 96)
    mask[:, 20:28, 30:80] = 1
    return mask


def ragged():
    """Specks, holes and fringes, as of fur or leaves."""
    return (torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(7)) > 0.6).float() * square(24, 72, 96)


def away(mask):
    """The distance of every pixel ``[H, W]`` from the mask ``[1, H, W]``, the larger of across and down."""
    here = torch.cartesian_prod(*(torch.arange(length) for length in mask.shape[1:]))
    differences = (here[:, None] - mask[0].nonzero()[None]).abs().amax(-1)
    return differences.amin(1).reshape(mask.shape[1:])


@pytest.mark.parametrize("mask", [thin(), square(36, 60, 96), ragged()], ids=["thin", "small", "ragged"])
@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (0, 8), (4, 3), (8, 8), (8, 32), (8, 64), (20, 16), (16, 0)])
def test_the_mask_itself_is_opaque_and_the_soft_edge_lies_in_what_grow_added(mask, grow, feather):
    area, alpha = feather_mask(mask, grow, feather)
    distance = away(mask)
    assert (alpha[mask > 0] == 1).all()
    assert torch.equal(area[0], distance <= grow)
    assert not alpha[~area].any()
    of_distance = [alpha[0][distance == each].unique() for each in range(grow + 1)]
    assert all(len(each) == 1 for each in of_distance if len(each))
    falling = torch.cat(of_distance)
    assert (falling.diff() <= 0).all()
    assert (falling > 0).all()
    soft = falling[falling < 1]
    assert len(soft) == min(feather, grow)
    assert (soft.diff() < 0).all()


def test_a_mask_over_everything_is_opaque_up_to_the_border():
    assert feather_mask(torch.ones(1, 32, 32), 3, 5)[1].min() == 1


def test_pasting_leaves_the_rest_bit_for_bit_and_keeps_an_alpha_channel():
    image, painted = torch.rand(1, 64, 64, 4), torch.rand(1, 64, 64, 3)
    area, alpha = feather_mask(square(), 4, 6)
    pasted = paste(image, painted, alpha)
    assert torch.equal(pasted[~area], image[~area])
    assert torch.equal(pasted[..., 3], image[..., 3])
    assert torch.equal(pasted[alpha == 1][:, :3], painted[alpha == 1])
    assert not torch.equal(pasted[area], image[area])


def test_a_tint_of_what_was_painted_goes_at_the_edge_and_the_edit_keeps_its_colours():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 128, 128, 4, generator=generator) * 0.1 + 0.4
    painted = image[..., :3] + torch.tensor([0.1, -0.05, 0.0])
    painted[:, 56:72, 56:72] = torch.tensor([0.9, 0.1, 0.2])
    _, alpha = feather_mask(square(24, 104, 128).expand(2, -1, -1), 8, 8)
    matched = match_colours(image, painted, alpha)
    off = (matched - image[..., :3]).abs().amax(-1)
    assert off[:, 16:24].mean() < 0.02 < off[:, 40].mean()
    assert (matched[:, 56:72, 56:72] - painted[:, 56:72, 56:72]).abs().max() < 0.01
    result = paste(image, matched, alpha)
    assert torch.equal(result[:, :16], image[:, :16])
    assert torch.equal(result[..., 3], image[..., 3])


def test_colours_stay_where_the_surroundings_of_what_was_painted_are_the_picture():
    image = torch.rand(1, 64, 64, 3)
    painted = torch.where(square()[..., None] > 0, torch.rand(1, 64, 64, 3), image)
    assert torch.equal(match_colours(image, painted, square()), painted)
    everywhere = torch.ones(1, 64, 64)
    assert torch.equal(match_colours(image, painted, everywhere), painted)


@pytest.mark.parametrize("top", [1, 255])
def test_matched_colours_stay_in_the_range_of_the_pictures(top):
    image, painted = torch.full((1, 64, 64, 3), float(top)), torch.full((1, 64, 64, 3), 0.9 * top)
    painted[:, 24:40, 24:40] = top
    assert match_colours(image, painted, square()).max() <= top
