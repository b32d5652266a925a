"""Edit Guard in a graph: the edit in the original, batches, other sizes, and what stands in the report."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

NODE = "InstDiffEditGuard"


@pytest.fixture
def original():
    """A picture with texture at several scales."""
    generator = torch.Generator().manual_seed(1)
    layers = [
        interpolate(torch.rand(1, 3, side, side, generator=generator), (192, 224), mode="bicubic")
        for side in (6, 20, 60, 120)
    ]
    return torch.stack(layers).mean(0).movedim(1, -1).clamp(0, 1)


def edit(picture, place=60, shift=3):
    """The picture with a bright square in it, moved and in other colours."""
    edited = picture.clone()
    edited[:, 80:120, place : place + 40, :3] = torch.tensor([0.9, 0.8, 0.1])
    return edited.roll(shift, 2) * 0.95 + 0.02


def test_the_edit_goes_into_the_original_and_the_rest_stays_bit_for_bit(host, original):
    picture, area, aligned, report = host.run(NODE, edited=edit(original), original=original)
    assert picture.shape == aligned.shape == original.shape
    assert area.shape == original.shape[:3]
    outside = area == 0
    assert torch.equal(picture[outside], original[outside])
    assert area[0, 85:115, 65:95].all()
    assert 0.03 < area.mean() < 0.1
    assert (picture[0, 90:110, 70:90] - torch.tensor([0.9, 0.8, 0.1])).abs().max() < 0.08
    assert report.startswith("picture 1: the edit was 3.0 pixels to the right")


@pytest.mark.one_host
def test_a_batch_of_edits_of_one_original_gives_as_many_pictures(host, original):
    edits = torch.cat([edit(original, 30), edit(original, 140, -2)])
    picture, area, _, report = host.run(NODE, edited=edits, original=original)
    assert len(picture) == len(area) == 2
    assert area[0, 100, 50] == area[1, 100, 160] == 1
    assert area[0, 100, 160] == area[1, 100, 50] == 0
    assert "picture 2: the edit was 2.0 pixels to the left" in report


@pytest.mark.one_host
def test_masks_of_one_edit_give_as_many_pictures(host, original):
    masks = torch.zeros(3, *original.shape[1:3])
    for number, mask in enumerate(masks):
        mask[40 * number : 40 * number + 40] = 1
    picture, area, _, _ = host.run(NODE, edited=edit(original), original=original, mask=masks, grow=0.0, feather=0.0)
    assert len(picture) == 3
    assert torch.equal(area, masks)


@pytest.mark.one_host
def test_an_empty_mask_gives_the_original_and_is_told_of(host, original):
    empty = torch.zeros(1, 64, 64)
    picture, area, _, report = host.run(NODE, edited=edit(original), original=original, mask=empty)
    assert torch.equal(picture, original)
    assert not area.any()
    assert "the mask is empty" in report


@pytest.mark.one_host
def test_each_picture_of_a_batch_has_its_own_edit_and_mask(host, original):
    originals = torch.cat([original, original.flip(2)])
    masks = torch.zeros(2, 192, 224)
    masks[0, 80:120, 60:100], masks[1, 20:60, 20:60] = 1, 1
    _, area, _, _ = host.run(NODE, edited=edit(originals), original=originals, mask=masks, grow=0.0, feather=0.0)
    assert torch.equal(area, masks)


@pytest.mark.one_host
def test_sizes_may_differ_and_transparency_stays(host, original):
    alpha = torch.rand(1, 192, 224, 1, generator=torch.Generator().manual_seed(5))
    transparent = torch.cat([original, alpha], -1)
    small = interpolate(edit(original).movedim(-1, 1), (152, 176), mode="bilinear", antialias=True).movedim(1, -1)
    picture, area, _, _ = host.run(NODE, edited=small, original=transparent)
    assert picture.shape == transparent.shape
    assert torch.equal(picture[..., 3], transparent[..., 3])
    assert torch.equal(picture[area == 0], transparent[area == 0])
    assert area[0, 90:110, 70:90].all()


@pytest.mark.one_host
@pytest.mark.parametrize("choice", ["aligned edit", "edit", "original"])
def test_what_is_refused_comes_out_as_was_chosen_and_says_why(host, original, choice):
    other = original.flip(1).flip(2).roll(70, 2)
    picture, area, _, report = host.run(NODE, edited=other, original=original, if_refused=choice)
    assert "refused: the pictures do not show the same" in report
    # which cannot be laid over the original, and so is only stretched
    assert torch.allclose(picture, original if choice == "original" else other, atol=1e-4)
    assert area.mean() == (choice != "original")


def test_bypassed_the_node_gives_the_edit(host):
    first = host.classes[NODE].define_schema().inputs[0]
    assert (first.id, first.get_io_type()) == ("edited", "IMAGE")


@pytest.mark.one_host
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (40, 7)])
def test_pictures_too_small_to_compare_come_out_with_a_reason(host, original, size):
    picture, _, _, report = host.run(NODE, edited=torch.rand(1, *size, 3), original=original)
    assert picture.shape == original.shape
    assert "refused: a picture has a side of under 32 pixels" in report


def test_nan_is_refused_with_the_inputs_name(host, original):
    with pytest.raises(ValueError, match="edited holds NaN"):
        host.run(NODE, edited=original * torch.nan, original=original)


@pytest.mark.one_host
def test_swapped_inputs_are_named(host, original):
    larger = interpolate(original.movedim(-1, 1), (401, 467), mode="bicubic").movedim(1, -1).clamp(0, 1)
    report = host.run(NODE, edited=larger, original=edit(original))[3]
    assert "the original seems to be connected to edited" in report


@pytest.mark.one_host
def test_a_batch_whose_lengths_do_not_match_begins_again_with_its_first_picture(host, original):
    edits = torch.cat([edit(original), edit(original, 140), edit(original, 30)])
    originals = torch.cat([original, original.flip(2)])
    picture, area, _, report = host.run(NODE, edited=edits, original=originals)
    assert len(picture) == len(area) == 3
    assert "picture 3: " in report
    assert torch.equal(picture[2][area[2] == 0], original[0][area[2] == 0])


@pytest.mark.one_host
def test_the_node_shows_the_edits_outline_in_the_picture_and_the_report(host, original):
    import folder_paths

    photo = interpolate(original.movedim(-1, 1), (1200, 1400), mode="bicubic").movedim(1, -1).clamp(0, 1)
    output = host.classes[NODE].execute(
        edited=edit(original), original=photo, sensitivity=0.5, grow=0.4, feather=0.4, match_colour=True,
        if_refused="aligned edit",
    )  # fmt: skip
    (saved,) = output.ui["images"]
    assert output.ui["text"] == (output.result[-1],)
    folder = Path(folder_paths.get_temp_directory(), saved["subfolder"])
    with Image.open(folder / saved["filename"]) as picture:
        assert max(picture.size) <= 1024
        shown = torch.from_numpy(np.array(picture))
    rows, columns = (output.result[1][0].any(axis).nonzero()[:, 0] * 1024 / 1400 for axis in (1, 0))
    lines = (shown == torch.tensor([255, 153, 0])).all(-1).nonzero()
    assert lines.amin(0).tolist() == pytest.approx([float(rows[0]), float(columns[0])], abs=6)
    assert lines.amax(0).tolist() == pytest.approx([float(rows[-1]), float(columns[-1])], abs=6)
