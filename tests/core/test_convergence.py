"""How a mask came about: when it settled, and how far its steps agree."""

import dataclasses

import numpy as np
import pytest
import torch

from instdiff_core.refine import refine, trace_convergence
from tests.core.drawn import CHANGE, GRID, blob, get_record, iou, prompt, tensor


def jumping(*places, batch_of=1):
    """A word's map, at one of two far places in each step."""
    spots = {"left": blob(8, 3, 1.5), "right": blob(8, 12, 1.5)}
    maps = [tensor([np.ones(GRID), np.ones(GRID), spots[place], 1 - spots[place]]) for place in places]
    return [each.repeat(batch_of, 1, 1, 1) for each in maps]


FOLLOWED = dataclasses.replace(CHANGE, target=("dog",))
PLACES = prompt("dog", "grass")


def test_a_mask_that_jumps_settles_at_the_step_of_the_jump():
    # noise so low in the first two steps that the third outweighs them
    steps = jumping("left", "left", "right", "right", "right")
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 0.1, 1.0, 1.0, 1.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [3]
    assert found.agreement.item() == pytest.approx(3 / 5, abs=0.01)
    assert found.steps == 5


def test_a_mask_that_never_changes_settles_at_the_first_step_and_agrees_wholly():
    found = trace_convergence(get_record(*jumping("left", "left", "left"), words=PLACES), FOLLOWED)
    assert (found.settled.tolist(), found.agreement.tolist(), found.steps) == ([1], [1.0], 3)


def test_of_the_first_steps_only_these_count():
    steps = jumping("left", "left", "right", "right", "right")
    record = get_record(*steps, sigmas=(0.1, 0.1, 1.0, 1.0, 1.0), words=PLACES)
    found = trace_convergence(record, FOLLOWED, 2)
    assert (found.settled.tolist(), found.agreement.tolist(), found.steps) == ([1], [1.0], 2)


def test_a_mask_that_jumps_in_the_last_step_settles_there():
    found = trace_convergence(get_record(*jumping("left", "right"), sigmas=(0.1, 2.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [2]
    assert found.agreement.item() == pytest.approx(1 / 2)


def test_a_mask_that_comes_back_settles_where_it_came_back():
    steps = jumping("right", "left", "right")
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 0.3, 1.5), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [3]
    assert found.agreement.item() == pytest.approx(2 / 3, abs=0.01)


def test_every_picture_of_a_batch_has_its_own_course():
    steps = [torch.cat(pair) for pair in zip(jumping("left", "left"), jumping("left", "right"), strict=True)]
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 2.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [1, 2]
    assert found.agreement.tolist() == pytest.approx([1, 1 / 2])


def test_masks_that_are_empty_in_every_step_agree():
    nothing = [torch.zeros(1, 4, *GRID)] * 3
    found = trace_convergence(get_record(*nothing, words=PLACES), CHANGE)
    assert (found.settled.tolist(), found.agreement.tolist()) == ([1], [1.0])


def test_draws_that_disagree_lower_the_agreement_of_the_mask_that_they_share():
    steps = [torch.cat(pair) for pair in zip(jumping("left", "left"), jumping("right", "right"), strict=True)]
    record, shared = get_record(*steps, words=PLACES), dataclasses.replace(FOLLOWED, share=True)
    found = trace_convergence(record, shared)
    own, common = (refine(record.evidence(), PLACES, settings).binary for settings in (FOLLOWED, shared))
    expected = (iou(own[0], common[0]) + iou(own[1], common[1])) / 2
    assert expected < 0.7
    assert found.agreement.tolist() == pytest.approx([expected, expected])
    assert found.settled.tolist() == [1, 1]
    agreeing = get_record(*jumping("left", "left", batch_of=2), words=PLACES)
    assert trace_convergence(agreeing, shared).agreement.tolist() == pytest.approx([1, 1])
