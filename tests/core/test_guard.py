"""What an editor did to a picture beside the edit is undone: its place, its colours, and all that was not edited."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from instdiff_core.arrays import Picture
from instdiff_core.guard import GREY, Guarded, guard_edit
from instdiff_core.guard.align import align
from instdiff_core.metrics import iou
from instdiff_core.options import GuardOptions
from tests.bench.guard_pairs import bent, drift, pair, places, scene

SIZE = 320


def tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.copy()).float() / 255


@pytest.fixture(scope="module")
def original() -> Picture:
    return scene(np.random.default_rng(4), SIZE)


@pytest.fixture(scope="module")
def other() -> Picture:
    return scene(np.random.default_rng(11), SIZE)


def painted(picture: Picture) -> tuple[Picture, Tensor]:
    """The picture with a red disc in it, and where that is."""
    down, across = np.mgrid[: picture.shape[0], : picture.shape[1]]
    disc = (down - 130) ** 2 + (across - 170) ** 2 < 40**2
    return np.where(disc[..., None], np.array([210, 30, 60], np.uint8), picture), torch.from_numpy(disc)


def moved(picture: Picture, amount: float = 1.0, seed: int = 0, pixels: int = SIZE**2) -> Picture:
    return drift(np.random.default_rng(seed), picture, amount, pixels)[0]


def keeps_the_rest(result: Guarded, original: Tensor) -> bool:
    """Whether the picture is the original outside the area, bit for bit."""
    return bool(((result.picture == original).all(-1) | result.area).all())


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * (first - second).square().mean().clamp(min=1e-10).log10())


@pytest.mark.parametrize("seed", range(3))
def test_shift_zoom_and_tilt_are_found_to_a_fraction_of_a_pixel(original: Picture, seed: int) -> None:
    edited, homography = drift(np.random.default_rng(seed), painted(original)[0], pixels=SIZE**2)
    first, second = tensor(original) @ GREY, tensor(edited) @ GREY
    found = align(first, second, torch.ones_like(first, dtype=torch.bool))
    error = places(found.homography.numpy(), (20, 20)) - places(homography, (20, 20))
    assert float((error * SIZE / 2).norm(dim=-1).mean()) < 0.25
    assert found.agreement > 0.6


def test_the_report_says_how_the_edit_moved(original: Picture) -> None:
    edited = np.roll(painted(original)[0], (-3, 5), (0, 1))
    result = guard_edit(tensor(original), tensor(edited))
    assert result.report.shift == pytest.approx((5, -3), abs=0.1)
    assert "5.0 pixels to the right and 3.0 up" in result.report.describe()


def test_a_large_shift_is_found(original: Picture) -> None:
    shifted = np.roll(original, 48, 1)
    assert guard_edit(tensor(original), tensor(shifted)).report.shift[0] == pytest.approx(48, abs=0.2)


def test_the_edit_is_found_and_the_rest_is_the_originals_bit_for_bit(original: Picture) -> None:
    ideal, disc = painted(original)
    result = guard_edit(tensor(original), tensor(moved(ideal)), options=GuardOptions(grow=0, feather=0))
    assert keeps_the_rest(result, tensor(original))
    assert float(iou(result.area, disc)) > 0.85
    assert psnr(result.picture, tensor(ideal)) > psnr(result.aligned, tensor(ideal)) + 6
    assert result.report.refusal is None


def test_a_change_of_all_colours_is_taken_back(original: Picture) -> None:
    ideal, _ = painted(original)
    cast = (255 * (ideal / 255) ** 1.1 * [1.03, 0.97, 0.92] + 4).clip(0, 255).astype(np.uint8)
    matched, plain = (
        guard_edit(tensor(original), tensor(cast), options=GuardOptions(match_colour=match)) for match in (True, False)
    )
    assert psnr(matched.aligned, tensor(ideal)) > psnr(tensor(cast), tensor(ideal)) + 8
    assert psnr(plain.aligned, tensor(cast)) > 35
    assert matched.report.colour_change > 2
    assert plain.report.colour_change == 0


@pytest.mark.parametrize("kind", ["paste", "recolour", "remove", "text"])
def test_edits_of_every_kind_are_nearer_to_what_was_asked_for(original: Picture, other: Picture, kind: str) -> None:
    made = pair(np.random.default_rng(3), kind, [original, other], longest=SIZE, pixels=SIZE**2)
    result = guard_edit(tensor(made.original), tensor(made.edited))
    resized = interpolate(tensor(made.edited).movedim(-1, 0)[None], made.truth.shape)[0].movedim(0, -1)
    assert keeps_the_rest(result, tensor(made.original))
    assert psnr(result.picture, tensor(made.ideal)) > psnr(resized, tensor(made.ideal)) + 3


@pytest.mark.parametrize("drifted", [False, True])
def test_where_nothing_was_edited_the_original_comes_out(original: Picture, drifted: bool) -> None:
    edited = moved(original, seed=2) if drifted else original
    result = guard_edit(tensor(original), tensor(edited))
    assert torch.equal(result.picture, tensor(original))
    assert not result.area.any()
    assert "nothing edited was found" in result.report.describe()


def test_five_edits_in_a_row_leave_the_rest_as_it_was(original: Picture) -> None:
    picture, touched = tensor(original), torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for turn in range(5):
        edited = (picture * 255).round().byte().numpy().copy()
        edited[40 + 45 * turn : 70 + 45 * turn, 30:90] = [20 + 50 * turn, 220 - 40 * turn, 90]
        result = guard_edit(picture, tensor(moved(edited, seed=turn)))
        picture, touched = result.picture, touched | result.area
    assert torch.equal(picture[~touched], tensor(original)[~touched])
    assert 0.05 < touched.float().mean() < 0.25


@pytest.mark.parametrize("seed", [1, 3])
def test_what_an_editor_bent_a_little_is_not_taken_for_an_edit(original: Picture, seed: int) -> None:
    ideal, disc = painted(original)
    edited = moved(bent(np.random.default_rng(seed), ideal, disc.numpy(), 12), amount=0.5)
    result = guard_edit(tensor(original), tensor(edited), options=GuardOptions(grow=0, feather=0))
    assert float(iou(result.area, disc)) > 0.93
    assert keeps_the_rest(result, tensor(original))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda picture, other: other, "do not show the same"),
        (lambda picture, other: (picture * [0.25, 0.3, 0.5]).astype(np.uint8), "colours and light changed"),
        (lambda picture, other: 0 * picture + 128, "do not show the same"),
        (lambda picture, other: picture[:20, :20], "a side of under 32 pixels"),
    ],
    ids=["another picture", "night", "one colour", "tiny"],
)
def test_what_cannot_be_told_is_refused_with_its_reason(original: Picture, other: Picture, edit, reason: str) -> None:
    edited = tensor(edit(original, other))
    result = guard_edit(tensor(original), edited)
    assert reason in result.report.describe()
    assert result.area.all()
    kept = guard_edit(tensor(original), edited, options=GuardOptions(refused="original"))
    assert torch.equal(kept.picture, tensor(original))
    assert not kept.area.any()
    whole = guard_edit(tensor(original), edited, options=GuardOptions(refused="edit"))
    assert edited.shape != whole.picture.shape or torch.equal(whole.picture, edited)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (200, 300)])
def test_a_refused_edit_that_cannot_be_laid_over_is_stretched(other: Picture, original: Picture, size) -> None:
    edited = interpolate(tensor(other).movedim(-1, 0)[None], size, mode="bilinear", antialias=True)
    stretched = interpolate(edited, (SIZE, SIZE), mode="bicubic", antialias=True)[0].movedim(0, -1)
    result = guard_edit(tensor(original), edited[0].movedim(0, -1))
    assert "do not show the same" in result.report.describe()
    assert psnr(result.picture, stretched) > 40
    assert torch.equal(result.picture, result.aligned)


def test_a_refused_edit_keeps_its_own_colours(original: Picture) -> None:
    night = (original * [0.25, 0.3, 0.5]).astype(np.uint8)
    assert psnr(guard_edit(tensor(original), tensor(night)).picture, tensor(night)) > 30


def test_one_colour_has_nothing_to_go_by(original: Picture) -> None:
    flat = torch.full((64, 64, 3), 0.5)
    assert "too little detail" in guard_edit(flat, flat).report.describe()


def test_a_mask_says_what_is_put_back(original: Picture) -> None:
    ideal, _ = painted(original)
    mask = torch.zeros(SIZE, SIZE)
    mask[200:260, 40:100] = 1
    options = GuardOptions(grow=0, feather=0)
    result = guard_edit(tensor(original), tensor(moved(ideal, amount=0.5)), mask, options)
    assert torch.equal(result.area, mask.bool())
    assert keeps_the_rest(result, tensor(original))
    small = interpolate(mask[None, None], (80, 80))[0, 0]
    assert guard_edit(tensor(original), tensor(ideal), small).area[230, 70]


def test_a_new_background_is_laid_over_by_what_the_mask_leaves(original: Picture, other: Picture) -> None:
    mask = torch.ones(SIZE, SIZE)
    mask[40:300, 60:290] = 0
    edited = np.where(mask.bool().numpy()[..., None], other, original)
    result = guard_edit(tensor(original), tensor(np.roll(edited, 4, 1)), mask)
    assert result.report.shift == pytest.approx((4, 0), abs=0.2)
    assert result.report.refusal is None


@pytest.mark.parametrize("size", [(240, 240), (512, 448), (96, 320)])
def test_an_edit_of_another_size_comes_back_at_the_originals(original: Picture, size: tuple[int, int]) -> None:
    ideal, _ = painted(original)
    edited = interpolate(tensor(ideal).movedim(-1, 0)[None], size, mode="bilinear", antialias=True)[0].movedim(0, -1)
    result = guard_edit(tensor(original), edited)
    assert result.picture.shape == (SIZE, SIZE, 3)
    assert keeps_the_rest(result, tensor(original))


def test_a_cropped_edit_is_laid_where_it_was_cropped(original: Picture) -> None:
    ideal, disc = painted(original)
    result = guard_edit(tensor(original), tensor(ideal[30:290]), options=GuardOptions(grow=0, feather=0))
    assert float(iou(result.area, disc)) > 0.85
    assert psnr(result.picture, tensor(ideal)) > 35


@pytest.mark.parametrize("channels", [1, 4])
def test_transparency_and_grey_pictures_stay(original: Picture, channels: int) -> None:
    ideal, disc = painted(original)
    extra = torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)[..., None]
    pictures = [torch.cat([tensor(each), extra], -1)[..., -channels:] for each in (original, ideal)]
    if channels == 1:
        pictures = [tensor(each).mean(-1, keepdim=True) for each in (original, ideal)]
    result = guard_edit(pictures[0], pictures[1])
    assert result.picture.shape == pictures[0].shape
    assert keeps_the_rest(result, pictures[0])
    assert (result.area & disc).sum() > 0.6 * disc.sum()
    if channels == 4:
        assert torch.equal(result.picture[..., 3], pictures[0][..., 3])


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (400, 33)])
def test_pictures_of_odd_sizes_give_a_picture_and_a_reason(original: Picture, size: tuple[int, int]) -> None:
    result = guard_edit(torch.rand(*size, 3), tensor(original))
    assert result.picture.shape == (*size, 3)
    assert result.report.refusal


def test_a_photo_of_100_megapixels_comes_back_at_its_size(original: Picture) -> None:
    ideal, _ = painted(original)
    before, after = (tensor(each).mean(-1, keepdim=True) for each in (original, ideal))
    photo = interpolate(before.movedim(-1, 0)[None], (10_000, 10_000), mode="bilinear")[0].movedim(0, -1)
    result = guard_edit(photo, after)
    assert result.picture.shape == photo.shape
    assert keeps_the_rest(result, photo)
    assert 0.03 < result.report.found < 0.08


def test_a_smooth_thing_that_was_recoloured_is_found_in_a_rough_picture(original: Picture) -> None:
    before, disc = painted(original)
    after = np.where(disc.numpy()[..., None], np.array([60, 200, 40], np.uint8), original)
    result = guard_edit(tensor(before), tensor(moved(after)), options=GuardOptions(grow=0, feather=0))
    assert float(iou(result.area, disc)) > 0.75
    assert psnr(result.aligned[disc], tensor(after)[disc]) > 15


def test_inputs_that_seem_swapped_are_named(original: Picture) -> None:
    larger = interpolate(tensor(original).movedim(-1, 0)[None], (501, 501), mode="bilinear")[0].movedim(0, -1)
    assert "seems to be connected to edited" in guard_edit(tensor(original), larger).report.describe()


def test_nan_is_refused(original: Picture) -> None:
    broken = tensor(original)
    broken[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="edited holds NaN or infinite values"):
        guard_edit(tensor(original), broken)


def test_more_sensitivity_finds_more(original: Picture) -> None:
    edited = tensor(moved(painted(original)[0]))
    found = [guard_edit(tensor(original), edited, options=GuardOptions(each)).report.found for each in (0, 0.5, 1)]
    assert found[0] <= found[1] <= found[2]


def test_the_facts_are_json_and_options_out_of_range_are_refused(original: Picture) -> None:
    facts = guard_edit(torch.rand(8, 8, 3), tensor(original)).report.facts()
    assert json.loads(json.dumps(facts, allow_nan=False))["agreement"] is None
    for wrong in ({"sensitivity": 2}, {"grow": -1}, {"feather": 11}, {"refused": "nothing"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GuardOptions(**wrong)
