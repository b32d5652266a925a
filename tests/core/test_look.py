"""The picture is looked at first: masks depend less on the noise, and of strong edits not on the strength.

A picture larger than the model was made for is looked at in that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from instdiff_core.export import export_record, import_record
from instdiff_core.look import LOOKS, LOOKS_IN_DOUBT, find_look_size
from instdiff_core.metrics import iou
from instdiff_core.mini.scenes import compose
from instdiff_core.options import PRESETS, FinishOptions, SamplingOptions
from instdiff_core.pipeline import Edit, EditModel, edit, load_mini
from instdiff_core.refine import is_in_doubt, refine_record
from instdiff_core.report import describe_mask

STEPS = 2


@pytest.fixture(scope="module")
def model() -> EditModel:
    return load_mini()


def edited(model: EditModel, picture: np.ndarray, strength: float, prompt: Any = "a frog", **options: Any) -> Edit:
    sampling = SamplingOptions(STEPS, strength=strength)
    return edit(model, picture, prompt, seed=1, sampling=sampling, finishing=FinishOptions(strength=0), **options)


@pytest.fixture(scope="module")
def edits(model: EditModel, drawn: Any) -> dict[float, Edit]:
    return {strength: edited(model, drawn[0], strength) for strength in (0.5, 0.8, 1.0)}


@contextmanager
def counted_calls(model: EditModel) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


def likeness(edit: Edit, truth: np.ndarray) -> float:
    return float(iou(edit.mask.binary[0], torch.from_numpy(truth)))


def test_the_mask_of_a_strong_edit_is_about_as_right_as_that_of_a_weaker_one(edits: Any, drawn: Any) -> None:
    weak, strong = (likeness(edits[strength], drawn[1]) for strength in (0.5, 0.8))
    assert strong > max(0.8, weak - 0.05)


def test_the_mask_does_not_depend_on_the_strength_of_a_strong_edit(edits: Any) -> None:
    assert torch.equal(edits[0.8].mask.binary, edits[1.0].mask.binary)


def test_steps_change_the_mask_of_a_weak_edit_alone(edits: Any) -> None:
    for strength, is_steady in ((0.5, False), (0.8, True)):
        record = edits[strength].record
        first, last = (refine_record(record, PRESETS["default"], steps).soft for steps in (1, STEPS))
        assert torch.equal(first, last) == is_steady
        assert len(record.maps) == len(record.sigmas) == STEPS


def test_of_a_weak_edit_the_look_counts_as_much_as_the_first_step(edits: Any) -> None:
    record = edits[0.5].record
    assert record.look is not None
    looked, propagated = record.evidence(1).propagated, record.propagated[0]
    torch.testing.assert_close(looked, (record.look + propagated) / 2)


def test_the_mask_that_a_run_ends_with_is_that_of_its_record(edits: Any, drawn: Any) -> None:
    picture = torch.tensor(drawn[0]).movedim(-1, 0)[None] / 255
    for each in edits.values():
        assert torch.equal(refine_record(each.record, PRESETS["default"], picture=picture).binary, each.mask.binary)


@pytest.mark.parametrize(
    ("strength", "preset", "looks"),
    [(0.5, "default", 1), (0.8, "default", LOOKS), (0.5, "paper", 0), (0.8, "paper", 0)],
)
def test_a_look_costs_a_step_and_is_taken_by_the_default_alone(
    model: EditModel, drawn: Any, strength: float, preset: str, looks: int
) -> None:
    with counted_calls(model) as calls:
        edited(model, drawn[0], strength, settings=PRESETS[preset])
    assert len(calls) == STEPS + looks


def test_the_published_method_refines_the_steps_alone(edits: Any) -> None:
    record = edits[0.8].record
    with_look, without = (refine_record(each, PRESETS["paper"]) for each in (record, replace(record, look=None)))
    assert torch.equal(with_look.soft, without.soft)


def test_each_of_several_edits_looks_at_the_untouched_picture(model: EditModel, drawn: Any, edits: Any) -> None:
    several = edited(model, drawn[0], 0.8, ["a frog", "a dog on the grass"]).record
    alone = edited(model, drawn[0], 0.8, "a dog on the grass").record
    for record, same in zip(several.edits, (edits[0.8].record, alone), strict=True):
        assert record.look is not None
        torch.testing.assert_close(record.look, same.look, rtol=1e-3, atol=1e-4)


def test_noise_samples_of_a_picture_share_its_look(model: EditModel, drawn: Any, edits: Any) -> None:
    sampling = SamplingOptions(STEPS, strength=0.8, noise_samples=2)
    shared = edit(model, drawn[0], "a frog", seed=1, sampling=sampling, finishing=FinishOptions(strength=0))
    assert iou(shared.mask.binary, edits[0.8].mask.binary) > 0.99


def test_a_record_and_its_file_keep_the_look(edits: Any) -> None:
    record = edits[0.8].record
    loaded, *_ = import_record(export_record(record, [PRESETS["default"]]))
    assert torch.equal(refine_record(loaded, PRESETS["default"]).soft, refine_record(record, PRESETS["default"]).soft)


def test_the_report_says_what_the_look_cost_and_advises_no_lower_denoise(edits: Any) -> None:
    strong, weak = (
        describe_mask(replace(edit.mask, confidence=torch.tensor([0.2])), edit.record, PRESETS["default"])
        for edit in (edits[0.8], edits[0.5])
    )
    assert f"found before the sampling, in {2 * LOOKS} more model evaluations" in strong
    assert "lower denoise" not in strong
    assert "before it" not in weak


@pytest.fixture(scope="module")
def doubted(model: EditModel) -> tuple[Edit, np.ndarray]:
    """A car on sand that is to stand on water, and all but the car."""
    picture, masks = compose(np.random.default_rng(1), ["car"], "sand")
    return edited(model, picture, 0.8, "a car on the water"), ~masks[0]


def test_what_may_be_contradicted_by_chance_is_looked_at_again(doubted: tuple[Edit, np.ndarray]) -> None:
    edit, rest = doubted
    assert bool(is_in_doubt(replace(edit.record, looks=None).evidence()))
    assert likeness(edit, rest) > 0.9
    assert "looked at again" in describe_mask(edit.mask, edit.record, PRESETS["default"])


def test_a_record_and_its_file_keep_the_looks_after_the_sampling(doubted: tuple[Edit, np.ndarray]) -> None:
    record = doubted[0].record
    loaded, *_ = import_record(export_record(record, [PRESETS["default"]]))
    assert torch.equal(refine_record(loaded, PRESETS["default"]).soft, refine_record(record, PRESETS["default"]).soft)


def test_a_picture_without_doubt_is_looked_at_once(edits: Any) -> None:
    record = edits[0.5].record
    assert record.looks is None
    of_a_batch = replace(record, looks=record.look)
    assert "looked at again" not in describe_mask(edits[0.5].mask, of_a_batch, PRESETS["default"])


LARGE = 384
"""Pixels across a picture that is half as large again as those that the embedded model was made for."""


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray, np.ndarray]:
    """A dog on water, as `drawn` but larger than the model knows pictures, and the dog's mask."""
    picture, masks = compose(np.random.default_rng(4), ["dog"], "water", size=LARGE)
    return picture, masks[0]


@pytest.fixture(scope="module")
def seen() -> list[tuple[int, ...]]:
    """The sizes of the latents that `of_large` shows the model, call by call."""
    return []


@pytest.fixture(scope="module")
def of_large(model: EditModel, large: Any, seen: list[tuple[int, ...]]) -> dict[str, Edit]:
    """Weak edits in one step: of the dog, and by a prompt that fits."""
    sampling, finishing = SamplingOptions(1), FinishOptions(strength=0)
    prompts = ("a frog", "a dog on the water")
    hook = model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    edits = {prompt: edit(model, large[0], prompt, sampling=sampling, finishing=finishing) for prompt in prompts}
    hook.remove()
    return edits


def test_what_a_prompt_changes_is_found_in_a_picture_larger_than_the_model_was_made_for(
    of_large: dict[str, Edit], large: Any
) -> None:
    assert likeness(of_large["a frog"], large[1]) > 0.8
    assert not of_large["a dog on the water"].mask.binary.any()


@pytest.mark.usefixtures("of_large")
def test_a_large_picture_is_looked_at_in_the_size_that_the_model_was_made_for_and_sampled_in_its_own(
    seen: list[tuple[int, ...]],
) -> None:
    assert seen[: LOOKS_IN_DOUBT + 1] == [(32, 32)] * LOOKS_IN_DOUBT + [(48, 48)]
    assert seen.count((48, 48)) == 2


def test_the_looks_at_a_large_picture_count_alone_and_its_record_and_file_know_it(of_large: dict[str, Edit]) -> None:
    edit = of_large["a frog"]
    loaded, *_ = import_record(export_record(edit.record, [PRESETS["default"]]))
    assert edit.record.look is not None
    for record in (edit.record, loaded):
        assert torch.equal(record.evidence().propagated, edit.record.look)
    assert "looked at in 256 x 256" in describe_mask(edit.mask, loaded, PRESETS["default"])


@pytest.mark.parametrize(
    ("size", "expected"), [((32, 32), (32, 32)), ((32, 48), (32, 48)), ((40, 40), (32, 32)), ((64, 36), (44, 24))]
)
def test_a_look_keeps_the_shape_of_a_picture_and_shrinks_none_that_is_hardly_larger(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert find_look_size(size, 32 * 32, 4) == expected
