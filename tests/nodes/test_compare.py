"""Compare Edit: what changed outside the mask, and how well masks agree."""

import math

import pytest
import torch

from instdiff_core.drawing import BLUE, ORANGE


@pytest.fixture
def compare(host):
    def run(**inputs):
        return host.run("InstDiffCompareEdit", **inputs)

    return run


@pytest.fixture
def before(make_picture):
    return make_picture(1, 64, 96)


@pytest.fixture
def mask():
    area = torch.zeros(1, 64, 96)
    area[:, 16:48, 16:48] = 1
    return area


@pytest.fixture
def edited(before, mask):
    """The negative inside the mask, `before` outside."""
    return torch.where(mask.unsqueeze(-1) > 0, 1 - before, before)


def test_an_edit_that_kept_to_its_mask_is_equal_outside(compare, before, edited, mask):
    difference, _, decibels, similar, _ = compare(before=before, after=edited, mask=mask)
    assert decibels == 100
    assert similar == pytest.approx(1, abs=1e-6)
    assert difference.shape == before.shape


def test_without_a_mask_the_whole_pictures_are_compared(compare, before, edited):
    _, overlap, decibels, similar, report = compare(before=before, after=edited)
    assert "outside" not in report
    assert decibels < 20
    assert similar < 0.9
    assert math.isnan(overlap)


def test_the_decibels_are_those_of_a_known_change(compare):
    grey = torch.full((1, 32, 32, 3), 100 / 255)
    _, _, decibels, _, _ = compare(before=grey, after=grey + 10 / 255)
    assert decibels == pytest.approx(10 * math.log10(255**2 / 10**2), abs=1e-6)


def test_a_change_outside_the_mask_lowers_both_figures(compare, before, edited, mask):
    spoiled = edited.clone()
    spoiled[:, :10] = spoiled[:, :10].flip(2)
    _, _, decibels, similar, _ = compare(before=before, after=spoiled, mask=mask)
    assert decibels < 30
    assert similar < 0.95


def test_the_difference_is_black_where_pictures_are_equal_and_shows_both_outlines(compare, before, edited, mask):
    other = mask.roll(24, -1)
    difference = compare(before=before, after=edited, mask=mask, other_mask=other)[0][0]
    assert not difference[:8].any()
    assert torch.equal(difference[15, 20], torch.tensor(ORANGE))
    assert torch.equal(difference[30, 72], torch.tensor(BLUE))
    assert difference[20:40, 20:38].mean() > 0.5


def test_two_masks_alone_give_their_overlap_and_their_areas(compare, mask):
    other = mask.roll(16, -1)
    difference, overlap, decibels, similar, report = compare(mask=mask, other_mask=other)
    assert overlap == pytest.approx(1 / 3)
    assert math.isnan(decibels)
    assert math.isnan(similar)
    assert report == "picture 1: masks agree 0.333 (IoU)"
    shown = [difference[0, 30, column] for column in (20, 40, 56, 80)]
    assert torch.equal(torch.stack(shown), torch.tensor([ORANGE, (1.0, 1.0, 1.0), BLUE, (0.0, 0.0, 0.0)]))


def test_a_mask_of_another_size_is_brought_to_the_picture_s(compare, before, edited, mask):
    small = mask[:, ::8, ::8]
    # all but the rounded corners
    assert compare(before=before, after=edited, mask=mask, other_mask=small)[1] > 0.95
    assert compare(mask=small, other_mask=mask)[1] == 1


def test_a_mask_without_batch_is_taken_as_one(compare, before, edited, mask):
    assert compare(before=before, after=edited, mask=mask[0])[2] == 100


def test_a_batch_has_a_line_for_each_and_the_mean_of_its_figures(compare, before, edited, mask):
    after = torch.cat([edited, 1 - before])
    difference, _, decibels, similar, report = compare(before=before, after=after, mask=mask)
    alone = [compare(before=before, after=each[None], mask=mask) for each in after]
    assert difference.shape == (2, 64, 96, 3)
    assert decibels == pytest.approx(sum(each[2] for each in alone) / 2)
    assert similar == pytest.approx(sum(each[3] for each in alone) / 2)
    assert [line.split(":")[0] for line in report.splitlines()] == ["picture 1", "picture 2"]
    assert "PSNR 100.0 dB outside the mask, SSIM 1.0000 outside the mask" in report.splitlines()[0]


def test_an_alpha_channel_plays_no_part(compare, before, edited, mask):
    clear = torch.cat([before, torch.zeros(1, 64, 96, 1)], -1)
    assert compare(before=clear, after=edited, mask=mask)[2] == 100


def test_the_node_shows_the_difference_and_the_report(host, before, edited, mask):
    output = host.classes["InstDiffCompareEdit"].execute(before=before, after=edited, mask=mask)
    assert len(output.ui["images"]) == 1
    assert output.ui["text"] == (output.result[-1],)


@pytest.mark.parametrize("given", [(), ("mask",)])
def test_nothing_to_compare_says_what_to_connect(compare, mask, given):
    with pytest.raises(ValueError, match="nothing to compare: connect before and after, or mask and other_mask"):
        compare(**dict.fromkeys(given, mask))


@pytest.mark.parametrize(("given", "missing"), [("before", "after"), ("after", "before")])
def test_one_picture_asks_for_the_other(compare, before, given, missing):
    with pytest.raises(ValueError, match=f"connect {missing} too"):
        compare(**{given: before})


def test_an_other_mask_alone_asks_for_the_first(compare, before, mask):
    with pytest.raises(ValueError, match="connect mask too"):
        compare(before=before, after=before, other_mask=mask)


def test_pictures_of_different_size_name_both_sizes_and_what_to_do(compare, before, make_picture):
    with pytest.raises(ValueError, match=r"96 x 64 and 64 x 64: crop or scale one"):
        compare(before=before, after=make_picture(1, 64, 64))
