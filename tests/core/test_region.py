"""The part of a picture that is worked on: what it holds, its size, and that the rest stays as it was."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from instdiff_core.region import LARGEST_SCALE, WHOLE, WORTH, Region, find_enlargement, find_regions, working_size

PIXELS = 256**2


def picture(height: int = 300, width: int = 400, channels: int = 3, batch: int = 1) -> Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(0))


def masked(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (300, 400)) -> Tensor:
    """A mask of rectangles: top, left, height, width."""
    mask = torch.zeros(1, *size, dtype=torch.bool)
    for top, left, height, width in boxes:
        mask[0, top : top + height, left : left + width] = True
    return mask


def holds(region: Region, mask: Tensor) -> bool:
    """Whether all of a mask ``[H, W]`` is in the region."""
    inside = torch.zeros_like(mask)
    inside[region.top : region.top + region.height, region.left : region.left + region.width] = True
    return not (mask & ~inside).any()


def test_a_region_is_a_square_of_its_context_around_the_mask() -> None:
    (region,) = find_regions(masked((100, 150, 40, 60)), PIXELS, context=2)
    assert (region.height, region.width) == (120, 120)
    assert (region.top + 60, region.left + 60) == (120, 180)
    assert region.size == (256, 256)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 30, 50), (270, 350, 30, 50), (0, 180, 20, 20), (140, 399, 1, 1), (0, 100, 300, 5), (150, 0, 3, 400),
        (0, 0, 150, 130),
    ],
)  # fmt: skip
@pytest.mark.parametrize("context", [1, 1.5, 4])
def test_a_region_holds_its_mask_and_stays_inside_the_picture(box: tuple[int, int, int, int], context: float) -> None:
    mask = masked(box)
    (region,) = find_regions(mask, PIXELS, context=context)
    assert holds(region, mask[0])
    assert min(region.top, region.left) >= 0
    assert region.top + region.height <= 300
    assert region.left + region.width <= 400


def test_where_the_picture_is_too_narrow_the_region_takes_as_much_in_the_other_direction() -> None:
    (region,) = find_regions(masked((20, 1000, 60, 60), size=(100, 2000)), PIXELS, context=3)
    assert (region.height, region.width) == (100, 324)
    assert region.size == (128, 448)


@pytest.mark.parametrize("mask", [masked(), masked((0, 0, 300, 400)), masked((20, 20, 260, 350))])
def test_an_empty_mask_and_one_of_most_of_the_picture_have_the_whole_picture(mask: Tensor) -> None:
    (region,) = find_regions(mask, PIXELS)
    assert (region.top, region.left, region.height, region.width) == (0, 0, 300, 400)


def test_a_region_is_enlarged_only_so_far() -> None:
    (region,) = find_regions(masked((100, 100, 5, 5)), 1024**2)
    assert region.size == (64, 64)
    assert working_size(64, 64, 1024**2, 64) == (64 * LARGEST_SCALE, 64 * LARGEST_SCALE)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (64, 64), (100, 2000), (3000, 4000)])
@pytest.mark.parametrize("unit", [8, 64])
def test_a_working_size_has_about_as_many_pixels_and_the_shape_of_the_region(
    height: int, width: int, unit: int
) -> None:
    down, across = working_size(height, width, PIXELS, unit)
    assert down % unit == across % unit == 0
    assert min(PIXELS, LARGEST_SCALE**2 * height * width) == pytest.approx(down * across, rel=0.35)
    assert abs(math.log((across / down) / (width / height))) < 0.3


def test_separate_parts_have_a_region_each_of_one_size_and_small_ones_have_none() -> None:
    mask = masked((20, 20, 40, 30), (200, 300, 60, 60), (20, 380, 4, 4))
    first, second = find_regions(mask, PIXELS, separate=True)
    assert first.size == second.size == (256, 256)
    assert holds(first, masked((20, 20, 40, 30))[0])
    assert holds(second, masked((200, 300, 60, 60))[0])
    assert first.height / first.width == second.height / second.width
    (together,) = find_regions(mask, PIXELS)
    assert holds(together, mask[0])


def test_parts_whose_regions_overlap_have_one_region() -> None:
    mask = masked((100, 100, 40, 40), (100, 150, 40, 40))
    (region,) = find_regions(mask, PIXELS, separate=True)
    assert holds(region, mask[0])


def test_each_picture_of_a_batch_has_its_own_region_of_one_shape() -> None:
    masks = torch.cat([masked((20, 20, 40, 30)), masked((100, 10, 20, 120)), masked()])
    regions = find_regions(masks, PIXELS)
    assert [region.picture for region in regions] == [0, 1, 2]
    assert len({region.size for region in regions}) == 1
    assert all(holds(region, mask) for region, mask in zip(regions, masks, strict=True))


def widened(mask: Tensor, pixels: int) -> Tensor:
    """A mask ``[H, W]`` and what is around it."""
    return max_pool2d(mask[None].float(), 2 * pixels + 1, 1, pixels)[0] > 0


@pytest.mark.parametrize(
    "box", [(100, 150, 40, 50), (0, 0, 30, 20), (270, 370, 30, 30), (150, 200, 1, 1), (140, 100, 10, 70)]
)
def test_what_is_small_is_enlarged_to_the_models_size_with_all_that_is_painted(box: tuple[int, int, int, int]) -> None:
    (mask,) = masked(box)
    area = widened(mask, 8)
    region = find_enlargement(mask, area, PIXELS, unit=8)
    assert region is not None
    assert holds(region, area)
    assert math.prod(region.size) == pytest.approx(PIXELS, rel=0.1)
    assert WORTH <= region.size[0] / region.height <= LARGEST_SCALE


@pytest.mark.parametrize(
    ("box", "grow"),
    [
        pytest.param((60, 60, 180, 200), 8, id="large"),
        pytest.param((0, 0, 300, 400), 0, id="all of it"),
        pytest.param((0, 0, 0, 0), 8, id="empty"),
        pytest.param((100, 150, 40, 40), 60, id="an area that reaches beyond the region"),
    ],
)
def test_what_is_not_small_or_would_be_cut_off_is_painted_in_the_whole_picture(
    box: tuple[int, int, int, int], grow: int
) -> None:
    (mask,) = masked(box)
    assert find_enlargement(mask, widened(mask, grow), PIXELS) is None


def test_what_is_painted_apart_from_the_rest_is_not_left_out() -> None:
    (mask,) = masked((100, 150, 40, 40))
    area = widened(mask, 8) | masked((10, 10, 5, 5))[0]
    assert find_enlargement(mask, area, PIXELS) is None


def test_where_nothing_is_painted_nothing_is_enlarged() -> None:
    (mask,) = masked((100, 150, 40, 40))
    assert find_enlargement(mask, torch.zeros_like(mask), PIXELS) is None


def test_a_picture_that_is_small_itself_is_not_enlarged() -> None:
    (mask,) = masked((20, 20, 20, 20), size=(64, 64))
    assert find_enlargement(mask, widened(mask, 8), PIXELS) is None


def test_a_context_below_the_mask_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"context must be at least 1, not 0\.9"):
        find_regions(masked(), PIXELS, context=0.9)


@pytest.mark.parametrize("channels", [3, 4])
def test_outside_what_is_put_back_the_picture_stays_bit_for_bit(channels: int) -> None:
    pictures = picture(channels=channels, batch=2) * 1.5 - 0.2
    before, mask = pictures.clone(), masked((100, 150, 40, 60))
    (region,) = find_regions(mask, PIXELS)
    region = Region(1, region.top, region.left, region.height, region.width, region.size)
    alpha = region.cut_mask(mask.expand(2, -1, -1))
    area = region.put_back(pictures, torch.zeros(1, *region.size, 3), alpha)
    changed = (pictures != before).any(-1)
    assert not changed[0].any()
    inside = torch.zeros_like(changed[1])
    inside[region.top : region.top + region.height, region.left : region.left + region.width] = area[0]
    assert not (changed[1] & ~inside).any()
    assert changed[1][mask[0]].all()
    assert (pictures[1, ..., :3][mask[0]] == 0).float().mean() > 0.9
    assert torch.equal(pictures[..., 3:], before[..., 3:])


def test_a_crop_that_was_not_edited_gives_the_picture_back() -> None:
    smooth = torch.nn.functional.interpolate(picture(12, 16).movedim(-1, 1), (300, 400), mode="bicubic")
    pictures = smooth.movedim(1, -1).clamp(0, 1)
    before = pictures.clone()
    (region,) = find_regions(masked((100, 150, 80, 80)), PIXELS)
    region.put_back(pictures, region.cut(pictures), torch.ones(1, *region.size))
    assert (pictures - before).abs().max() < 0.01


def test_what_is_put_back_is_where_it_was_to_a_tenth_of_a_pixel() -> None:
    down, across = torch.meshgrid(torch.arange(301.0), torch.arange(401.0), indexing="ij")
    disc = ((down - 140.3) ** 2 + (across - 201.7) ** 2 < 30**2).float()
    pictures = torch.zeros(1, 301, 401, 3)
    (region,) = find_regions(disc[None].bool(), PIXELS, unit=8)
    region.put_back(pictures, region.cut(disc[None, ..., None].expand(-1, -1, -1, 3)), torch.ones(1, *region.size))
    for place in (down, across):
        expected, found = ((place * shown).sum() / shown.sum() for shown in (disc, pictures[0, ..., 0]))
        assert abs(float(expected - found)) < 0.1


def test_a_region_that_would_be_most_of_the_picture_is_all_of_it() -> None:
    side = math.ceil(math.sqrt(WHOLE * 300 * 400) / 2) + 2
    (region,) = find_regions(masked((50, 50, side, side)), PIXELS, context=2)
    assert (region.height, region.width) == (300, 400)


def test_bytes_are_cut_and_put_back_as_their_values_are() -> None:
    generator = torch.Generator().manual_seed(1)
    photo = torch.randint(0, 256, (2, 60, 80, 3), generator=generator, dtype=torch.uint8)
    region, alpha = Region(1, 10, 20, 30, 40, (64, 96)), torch.rand(1, 64, 96, generator=generator).round()
    crop = region.cut(photo)
    assert torch.equal(crop, region.cut(photo / 255))
    edited, values = photo.clone(), photo / 255
    where = region.put_back(edited, 1 - crop, alpha)
    assert torch.equal(where, region.put_back(values, 1 - crop, alpha))
    assert torch.equal(edited, (values * 255).round().to(torch.uint8))
    assert torch.equal(edited[0], photo[0])
    assert torch.equal(edited[1, 10:40, 20:60][~where[0]], photo[1, 10:40, 20:60][~where[0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pictures_in_half_precision_are_cut_and_put_back_in_it(dtype: torch.dtype) -> None:
    """As ComfyUI has them with --fp16-intermediates."""
    pictures, region = picture().to(dtype), Region(0, 10, 20, 30, 40, (64, 96))
    crop = region.cut(pictures)
    assert crop.dtype == dtype
    torch.testing.assert_close(crop.float(), region.cut(pictures.float()), atol=0.01, rtol=0)
    edited = pictures.clone()
    region.put_back(edited, 1 - crop, torch.ones(1, 64, 96))
    assert torch.equal(edited[:, :10], pictures[:, :10])
    assert not torch.equal(edited, pictures)
