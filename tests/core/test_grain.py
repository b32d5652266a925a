"""Grain goes into what was painted, as strong as around it, and nowhere else."""

import pytest
import torch

from instdiff_core.blend import feather_mask, paste
from instdiff_core.grain import add_grain
from instdiff_core.maps import blur_gaussian

STRENGTH = 6 / 255
SIZE = 192


def make_photo(coarseness=0.0, channels=3):
    """A soft slope ``[1, SIZE, SIZE, channels]`` and the same with grain, mostly of brightness."""
    generator = torch.Generator().manual_seed(5)
    across = torch.linspace(0.3, 0.6, SIZE).expand(SIZE, SIZE)
    clean = torch.stack([across, across.T, 1 - across, torch.ones_like(across)][:channels], -1)[None]
    colours, grey = (torch.randn(1, SIZE, SIZE, count, generator=generator) for count in (3, 1))
    grain = 0.4 * colours + grey
    if coarseness:
        grain = blur_gaussian(grain[0].movedim(-1, 0), coarseness).movedim(0, -1)[None]
    grainy = clean.clone()
    grainy[..., :3] += grain * STRENGTH / grain.mean(-1).std()
    return clean, grainy


def make_area(size=96):
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 48 : 48 + size, 40 : 40 + size] = 1
    return feather_mask(mask, 8, 8)


def brightness(picture):
    return picture[..., :3].mean(-1)


@pytest.mark.parametrize("coarseness", [0.0, 0.7])
def test_a_smooth_edit_gets_the_grain_of_the_photo_also_in_its_soft_edge(coarseness):
    clean, photo = make_photo(coarseness)
    area, alpha = make_area()
    result = paste(photo, add_grain(photo, clean, alpha), alpha)
    off = brightness(result - clean)
    assert off[alpha == 1].std() == pytest.approx(STRENGTH, rel=0.2)
    assert off[area & (alpha < 1)].std() == pytest.approx(STRENGTH, rel=0.2)
    neighbours = torch.stack([off[:, 60:130, 60:120].flatten(), off[:, 60:130, 61:121].flatten()])
    of_photo = brightness(photo - clean)
    usual = torch.stack([of_photo[:, 60:130, 60:120].flatten(), of_photo[:, 60:130, 61:121].flatten()])
    assert torch.corrcoef(neighbours)[0, 1] == pytest.approx(float(torch.corrcoef(usual)[0, 1]), abs=0.1)
    assert (result - clean)[alpha == 1].std(0) == pytest.approx((photo - clean)[alpha == 1].std(0), rel=0.2)


def test_outside_the_area_and_in_transparency_nothing_changes():
    clean, photo = make_photo(channels=4)
    area, alpha = make_area()
    result = paste(photo, add_grain(photo, clean[..., :3], alpha), alpha)
    assert torch.equal(result[~area], photo[~area])
    assert torch.equal(result[..., 3], photo[..., 3])


def test_an_edit_that_has_the_grain_gets_no_more():
    _, photo = make_photo()
    _, alpha = make_area()
    edit = photo.roll(60, 1)
    added = add_grain(photo, edit, alpha) - edit
    assert brightness(added)[alpha > 0].std() < 0.35 * STRENGTH


def test_a_clean_picture_and_one_of_texture_all_over_add_none():
    clean, photo = make_photo()
    _, alpha = make_area()
    assert (add_grain(clean, clean.flip(1), alpha) - clean.flip(1)).abs().max() < 0.1 / 255
    texture = (clean + 10 * (photo - clean)).clamp(0, 1)
    assert torch.equal(add_grain(texture, clean, alpha), clean)


def test_pictures_of_a_batch_get_their_own_grain_the_same_each_time():
    clean, photo = make_photo()
    _, alpha = make_area()
    photos, edits, alphas = torch.cat([photo, clean]), torch.cat([clean, clean]), alpha.expand(2, -1, -1)
    result = add_grain(photos, edits, alphas)
    assert torch.equal(result[:1], add_grain(photo, clean, alpha))
    assert (result[1:] - clean).abs().max() < 0.1 / 255


@pytest.mark.parametrize("mask", [torch.zeros(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE)], ids=["empty", "everything"])
def test_without_surroundings_or_area_nothing_is_added(mask):
    clean, photo = make_photo()
    assert torch.equal(add_grain(photo, clean, mask), clean)


def test_the_smallest_pictures_are_taken():
    photo, mask = torch.rand(1, 5, 7, 3), torch.zeros(1, 5, 7)
    mask[:, 2, 3] = 1
    assert torch.equal(add_grain(photo, photo, mask), photo)
