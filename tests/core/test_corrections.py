"""What is corrected by hand: strokes, and parts that are dropped."""

import json
from dataclasses import replace

import pytest
import torch

from instdiff_core.corrections import UNITS, Corrections
from instdiff_core.options import PRESETS, MaskShape
from instdiff_core.refine import refine_record, retouch_mask
from tests.corrections import NOT_CORRECTIONS
from tests.records import make_record

SIZE = 256
UNIT = UNITS // SIZE
"""Units of corrections in a pixel."""


def corrected(mask, *actions, number=0):
    return Corrections.read(json.dumps({str(number): actions})).apply(mask[None])[0]


def blank():
    return torch.zeros(SIZE, SIZE, dtype=torch.bool)


def disc(x, y, radius):
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def at(*numbers):
    return [number * UNIT for number in numbers]


def test_a_dot_is_a_disc_of_the_brushs_radius():
    assert torch.equal(corrected(blank(), ["add", at(100, 50, 20)]), disc(100, 50, 20))
    assert torch.equal(corrected(~blank(), ["erase", at(100, 50, 20)]), ~disc(100, 50, 20))


def test_a_stroke_is_as_wide_as_the_brush_from_point_to_point():
    mask = corrected(blank(), ["add", at(50, 128, 10, 150, 0, 0)])
    assert mask[118:138, 50:200].all()
    assert not mask[:117].any()
    assert not mask[:, 212:].any()


def test_a_pen_that_is_pressed_harder_draws_wider():
    mask = corrected(blank(), ["add", at(50, 128, 5, 150, 0, 20)])
    widths = mask.sum(0)
    assert widths[60] < widths[120] < widths[190]


def test_what_comes_later_covers_what_came_before():
    mask = corrected(blank(), ["add", at(100, 100, 30)], ["erase", at(100, 100, 20)], ["add", at(100, 100, 10)])
    assert torch.equal(mask, disc(100, 100, 30) & ~disc(100, 100, 20) | disc(100, 100, 10))


def test_strokes_may_begin_and_end_outside_the_picture():
    mask = corrected(blank(), ["add", at(-100, 128, 10, 500, 0, 0)])
    assert mask[128].all()
    assert not mask[100].any()


def test_strokes_keep_their_place_in_a_picture_of_another_size():
    text = json.dumps({"0": [["add", at(100, 50, 20)]]})
    double = Corrections.read(text).apply(torch.zeros(1, 2 * SIZE, 2 * SIZE, dtype=torch.bool))[0]
    small = torch.nn.functional.avg_pool2d(double[None].float(), 2)[0]
    assert torch.equal(small[disc(100, 50, 18)], torch.ones_like(small[disc(100, 50, 18)]))
    assert not small[~disc(100, 50, 22)].any()


def test_a_dropped_part_goes_and_the_others_stay():
    both = disc(60, 60, 30) | disc(180, 180, 40)
    assert torch.equal(corrected(both, ["drop", at(60, 70)]), disc(180, 180, 40))


def test_parts_that_touch_at_a_corner_are_one():
    mask = blank()
    mask[10:20, 10:20] = mask[20:30, 20:30] = True
    assert not corrected(mask, ["drop", at(15, 15)]).any()


def test_where_the_dropped_part_is_no_longer_nothing_goes():
    mask = disc(180, 180, 40)
    for place in ((60, 60), (-5, 10), (900, 0)):
        assert torch.equal(corrected(mask, ["drop", at(*place)]), mask)


def test_a_dropped_part_that_has_grown_into_another_leaves_what_is_nearer_to_that():
    merged = disc(60, 128, 50) | disc(160, 128, 60)
    rest = corrected(merged, ["drop", at(60, 128, 160, 128)])
    assert not rest[:, :110].any()
    assert torch.equal(rest[:, 111:], merged[:, 111:])


def test_the_place_of_a_part_that_is_apart_takes_nothing_of_the_dropped_one():
    apart = disc(60, 128, 50) | disc(180, 128, 10)
    assert torch.equal(corrected(apart, ["drop", at(60, 128, 180, 128)]), disc(180, 128, 10))


def test_a_stroke_after_a_drop_is_there_and_a_drop_after_it_takes_it():
    mask = disc(60, 60, 30)
    painted = ["add", at(60, 60, 10)]
    assert torch.equal(corrected(mask, ["drop", at(60, 60)], painted), disc(60, 60, 10))
    assert not corrected(mask, painted, ["drop", at(60, 60)]).any()


def test_every_picture_of_a_batch_has_its_own_corrections():
    masks = torch.stack([blank()] * 3)
    text = json.dumps({"1": [["add", at(100, 100, 10)]], "7": [["add", at(1, 1, 10)]]})
    made = Corrections.read(text).apply(masks)
    assert torch.equal(made[1], disc(100, 100, 10))
    assert not made[[0, 2]].any()


@pytest.mark.parametrize("text", ["", "  ", "{}", '{"0": []}'])
def test_without_corrections_a_mask_is_what_it_was(text):
    masks = disc(60, 60, 30)[None]
    assert Corrections.read(text).apply(masks) is masks


@pytest.mark.parametrize("text", NOT_CORRECTIONS[:-1], ids=range(len(NOT_CORRECTIONS) - 1))
def test_what_is_no_list_of_corrections_is_refused(text):
    with pytest.raises(ValueError, match=r"hold|must"):
        Corrections.read(text)


def test_corrections_come_after_the_shape_and_stay_inside_the_noise_mask():
    record = make_record(("a", "frog"), latent=(SIZE // 8, SIZE // 8))
    noise_mask = torch.zeros(1, SIZE // 8, SIZE // 8, dtype=torch.bool)
    noise_mask[..., :16] = True
    record = replace(record, noise_mask=noise_mask)
    mask = refine_record(record, PRESETS["default"])
    corrections = Corrections.read(json.dumps({"0": [["erase", at(128, 128, 400)], ["add", at(128, 128, 40)]]}))
    retouched = retouch_mask(mask, MaskShape(grow=20), corrections, noise_mask)
    expected = disc(128, 128, 40)
    expected[:, SIZE // 2 :] = False
    assert torch.equal(retouched.binary[0], expected)
    assert torch.equal(retouched.soft, mask.soft)
