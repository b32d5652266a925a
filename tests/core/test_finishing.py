"""What the finish promises in passes, and of what is small, which it paints enlarged."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from instdiff_core.mini.scenes import compose
from instdiff_core.options import FINISH, FinishOptions, SamplingOptions
from instdiff_core.pipeline import EditModel, edit_batch, finish
from instdiff_core.pipeline.own_mask import own_masks


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((128, 128), bool)
    mask[top : top + side, left : left + side] = True
    return mask


SMALL, LARGE = square(24, 72, 24), square(8, 8, 104)
"""Masks of whole latent pixels, of which one is painted in a crop, and one in the whole picture."""


def grown(mask: np.ndarray) -> np.ndarray:
    """Every pixel with one of the mask in the square around it that the finish may change."""
    side = 2 * FINISH.grow + 1
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, FINISH.grow), (side, side))
    return np.asarray(windows.any((-2, -1)))


def check(before: np.ndarray, mask: np.ndarray, after: np.ndarray) -> None:
    """Bit for bit outside the grown mask; painted inside the mask."""
    changed = (after != before).any(-1)
    assert not changed[~grown(mask)].any()
    assert changed[mask].mean() > 0.9


@pytest.mark.parametrize("enlarge", [False, True])
def test_what_is_small_is_painted_and_nothing_else(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor, enlarge: bool
) -> None:
    options = FinishOptions(8, strength=0.7, enlarge=enlarge)
    check(picture, SMALL, finish(model, picture, SMALL, latent, "a dog", options=options))


@pytest.mark.parametrize("size", [(75, 101), (200, 130)])
def test_what_is_small_is_painted_in_a_picture_of_any_size(model: EditModel, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[-14:-2, 40:52] = True
    check(noise, mask, finish(model, noise, mask, model.encode([noise]), "a dog", options=FinishOptions(2)))


def test_passes_and_the_crop_each_lead_to_another_picture(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    options = FinishOptions(8)
    changes: list[dict[str, Any]] = [{}, {"passes": 1}, {"enlarge": False}, {"passes": 1, "enlarge": False}]
    results = [finish(model, picture, SMALL, latent, "a dog", options=replace(options, **each)) for each in changes]
    for first, second in combinations(results, 2):
        assert not np.array_equal(first[SMALL], second[SMALL])


def test_few_steps_are_one_pass_whatever_passes_says(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    one, four = (
        finish(model, picture, SMALL, latent, "a dog", options=FinishOptions(3, passes=passes)) for passes in (1, 4)
    )
    assert np.array_equal(one, four)


def test_progress_counts_on_from_pass_to_pass(model: EditModel, picture: np.ndarray, latent: torch.Tensor) -> None:
    seen: list[tuple[int, int]] = []
    finish(
        model, picture, LARGE, latent, "a dog", options=FinishOptions(9, passes=2),
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen == [(done, 9) for done in range(1, 10)]


def test_what_is_large_is_the_same_with_enlarge_and_without(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    on, off = (
        finish(model, picture, LARGE, latent, "a dog", options=FinishOptions(2, enlarge=enlarge))
        for enlarge in (True, False)
    )
    assert np.array_equal(on, off)


def test_a_strength_of_0_puts_the_edit_in_as_it_is_whatever_the_rest_says(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    plain, small = (
        finish(
            model, picture, SMALL, latent, "a dog", options=FinishOptions(strength=0, passes=passes, enlarge=enlarge)
        )
        for passes, enlarge in ((1, False), (4, True))
    )
    assert np.array_equal(plain, small)


def test_several_small_edits_are_painted_one_by_one_and_nothing_else(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    masks = [square(24, 64, 16), square(48, 64, 16)]
    steps: list[tuple[int, int]] = []
    after = finish(
        model, picture, masks, latent, ["a dog", "a frog"], options=FinishOptions(2),
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    check(picture, masks[0] | masks[1], after)
    assert steps == sorted(steps)
    assert steps[-1] == (2, 2)
    alone = finish(model, picture, masks[0], latent, "a dog", options=FinishOptions(2))
    assert np.array_equal(after[masks[0]], alone[masks[0]])
    assert not np.array_equal(after[masks[1]], alone[masks[1]])


def test_an_empty_mask_leaves_the_picture_and_takes_no_time(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    steps: list[tuple[int, int]] = []
    nothing = np.zeros(picture.shape[:2], bool)
    after = finish(model, picture, nothing, latent, "a dog", progress=lambda *step: steps.append(step))
    assert np.array_equal(after, picture)
    assert len(steps) == 1
    assert len(set(steps[-1])) == 1


def test_of_a_batch_with_a_small_and_a_large_mask_each_is_painted_as_if_it_were_alone(
    model: EditModel, picture: np.ndarray
) -> None:
    """To what rounding does in a larger batch."""
    other = compose(np.random.default_rng(6), ["car"], "sand", size=128)[0]
    pictures, prompts, masks = [picture, other, other], ["a dog", "a frog", "a ball"], [SMALL, LARGE, SMALL]
    seen: list[tuple[int, int]] = []

    def edited(numbers: list[int], **options: Any) -> list[np.ndarray]:
        results = edit_batch(
            model,
            [pictures[number] for number in numbers],
            [prompts[number] for number in numbers],
            seeds=[number + 3 for number in numbers],
            new_session=own_masks(model, [masks[number] for number in numbers]),
            sampling=SamplingOptions(1),
            finishing=FinishOptions(2),
            **options,
        )
        return [result.picture for result in results]

    together = edited([0, 1, 2], progress=lambda *step: seen.append(step))
    for before, mask, after in zip(pictures, masks, together, strict=True):
        check(before, mask, after)
    (alone,) = edited([0])
    assert (np.abs(alone.astype(int) - together[0]) > 8).mean() < 0.02
    assert {total for _, total in seen} == {3}
    assert all(later >= earlier for (earlier, _), (later, _) in pairwise(seen))
    assert [done for done, _ in seen].count(3) == 1
    assert seen[-1] == (3, 3)
