"""A prompt that fits the whole picture changes nothing; one that wants another background still changes that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from instdiff_core.export import export_record, import_record
from instdiff_core.options import PRESETS, FinishOptions, SamplingOptions
from instdiff_core.pipeline import Edit, EditModel, edit_batch, load_mini
from instdiff_core.refine import refine_record
from instdiff_core.report import describe_mask
from instdiff_core.rest import ask_about_rest
from instdiff_core.session import MaskSession
from tests.records import make_record

PROMPTS = ("a dog on the water", "a dog on the grass", "a frog")
OPTIONS: dict[str, Any] = {"sampling": SamplingOptions(2), "finishing": FinishOptions(strength=0)}


@pytest.fixture(scope="module")
def model() -> EditModel:
    return load_mini()


@pytest.fixture(scope="module")
def edits(model: EditModel, drawn: Any) -> dict[str, Edit]:
    pictures = [drawn[0]] * len(PROMPTS)
    return dict(zip(PROMPTS, edit_batch(model, pictures, PROMPTS, seeds=[1, 1, 1], **OPTIONS), strict=True))


def test_a_prompt_that_fits_the_picture_changes_nothing_and_says_so(edits: dict[str, Edit], drawn: Any) -> None:
    edit = edits["a dog on the water"]
    assert not edit.mask.binary.any()
    assert np.array_equal(edit.picture, drawn[0])
    assert "nothing to change" in describe_mask(edit.mask, edit.record, PRESETS["default"])


def test_a_new_background_is_still_the_mask(edits: dict[str, Edit], drawn: Any) -> None:
    edit, rest = edits["a dog on the grass"], ~drawn[1]
    mask = edit.mask.binary[0].numpy()
    assert (mask & rest).sum() / (mask | rest).sum() > 0.9
    assert "the mask is the rest of it" in describe_mask(edit.mask, edit.record, PRESETS["default"])


def test_nothing_more_is_asked_where_the_prompt_contradicts_the_picture(edits: dict[str, Edit]) -> None:
    edit = edits["a frog"]
    assert edit.record.rest_ratio is None
    assert "more model evaluations" not in describe_mask(edit.mask, edit.record, PRESETS["default"])


def test_a_named_word_is_masked_where_there_was_nothing_to_change(edits: dict[str, Edit], drawn: Any) -> None:
    record = edits["a dog on the water"].record
    mask = refine_record(record, replace(PRESETS["default"], target=("dog",))).binary[0]
    assert (mask & torch.from_numpy(drawn[1])).any()


def test_the_answer_is_kept_in_the_records_file(edits: dict[str, Edit]) -> None:
    record = edits["a dog on the water"].record
    loaded, *_ = import_record(export_record(record, [PRESETS["default"]]))
    assert not refine_record(loaded, PRESETS["default"]).binary.any()


class RestSession(MaskSession):
    """A session whose mask is the rest of the picture, all but its left quarter; it keeps the answer alone."""

    leaves_rest = True

    def __init__(self) -> None:
        super().__init__(make_record(("a", "dog")).words, None)
        self.fix_mask(torch.ones(1, 8, 8, dtype=torch.bool).index_fill(2, torch.arange(2), False))

    def answer_rest(self, ratio: torch.Tensor) -> None:
        self.ratio = ratio.item()


@pytest.mark.parametrize("size", [8, 4])
def test_what_holds_in_most_of_the_rest_decides_and_not_a_few_places_nor_what_is_kept(size: int) -> None:
    wrong = torch.full((1, 4, size, size), 0.5)
    wrong[..., -1, :] = 9.0
    wrong[..., : size // 4] = 9.0
    session = RestSession()
    ask_about_rest(session, torch.zeros(1, 4, size, size), lambda number: (wrong, torch.ones_like(wrong)))
    assert session.ratio == pytest.approx(0.25)
