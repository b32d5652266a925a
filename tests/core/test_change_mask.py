"""The mask of the method "change": what the prompt changes and contradicts, and the words that are named."""

import dataclasses

import pytest
import torch

from instdiff_core.options import MaskSettings
from instdiff_core.refine import refine
from tests.core.drawn import BALL, CHANGE, DOG, NOWHERE, OBJECTS, at_grid, both, changed, disc, iou, prompt


@pytest.mark.parametrize("place", [DOG, BALL, disc(40, 24, 16)])
def test_what_the_prompt_changes_and_contradicts_is_the_mask(place):
    mask = refine(changed((place, 1.3)), OBJECTS, CHANGE)
    assert mask.soft.shape == mask.binary.shape == (1, 64, 64)
    assert iou(mask.binary[0], place) > 0.9
    assert mask.fits.tolist() == [False]
    assert mask.confidence > 0.8


def test_of_two_changed_places_the_one_that_the_prompt_fits_is_left_alone():
    mask = refine(both(), OBJECTS, CHANGE)
    assert iou(mask.binary[0], DOG) > 0.9
    assert not mask.binary[0][BALL].any()
    other = refine(changed((DOG, 0.8), (BALL, 1.3)), OBJECTS, CHANGE)
    assert iou(other.binary[0], BALL) > 0.9
    assert [mask.fits.item(), other.fits.item()] == [False, False]


def test_two_contradicted_places_are_both_in_the_mask():
    assert iou(refine(changed((DOG, 1.3), (BALL, 1.4)), OBJECTS, CHANGE).binary[0], DOG | BALL) > 0.9


def test_a_contradicted_place_that_hardly_changes_is_not_in_the_mask():
    evidence = changed((DOG, 1.3), (BALL, 1.4))
    evidence.propagated[:, 0] -= 0.9 * at_grid(BALL)
    mask = refine(evidence, OBJECTS, CHANGE)
    assert iou(mask.binary[0], DOG) > 0.9


@pytest.mark.parametrize("place", [DOG, BALL])
def test_a_prompt_that_fits_what_stands_out_changes_the_rest(place):
    mask = refine(changed((place, 0.8)), OBJECTS, CHANGE)
    assert mask.fits.tolist() == [True]
    assert iou(mask.binary[0], ~place) > 0.95
    assert iou(~mask.binary[0], place) > 0.8


@pytest.mark.parametrize(
    ("ratio", "rest_ratio", "expected"),
    [
        (1.04, 0.8, NOWHERE),  # the prompt fits the rest too
        (1.04, 1.05, DOG),  # it says nothing of the rest
        (1.04, 1.3, ~DOG),  # it wants another rest
        (0.97, 1.05, ~DOG),  # nothing but the rest can be meant
    ],
)
def test_what_the_prompt_says_of_the_rest_decides_whether_that_is_the_mask(ratio, rest_ratio, expected):
    evidence = dataclasses.replace(changed((DOG, ratio)), rest_ratio=torch.tensor([rest_ratio]))
    mask = refine(evidence, OBJECTS, CHANGE)
    assert (mask.binary[0] ^ expected).float().mean() < 0.05
    assert mask.fits.tolist() == [not torch.equal(expected, DOG)]


def test_without_a_negative_prompt_the_mask_is_where_the_picture_changes():
    evidence = changed((DOG, 0.8))
    evidence.propagated[:, 2] = 0
    mask = refine(evidence, OBJECTS, CHANGE)
    assert iou(mask.binary[0], DOG) > 0.9
    assert mask.fits.tolist() == [False]


def test_the_strength_of_the_change_and_of_the_errors_does_not_matter():
    plain, strong = both(), both()
    strong.propagated[:, 0] *= 50
    strong.propagated[:, 1:3] *= 0.02
    found, expected = (refine(evidence, OBJECTS, CHANGE).soft for evidence in (strong, plain))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_mask_has_the_edges_of_the_picture():
    """The evidence is 4 latent pixels coarse: alone it cannot tell where between them a disc ends."""
    place = disc(23, 21, 13)
    sharp, coarse = (refine(changed((place, 1.3), plain_guide=p), OBJECTS, CHANGE).binary[0] for p in (False, True))
    assert iou(sharp, place) > 0.95
    assert 0.5 < iou(coarse, place) < 0.8


@pytest.mark.parametrize("size", [(32, 48), (96, 64), (37, 51)])
def test_latents_of_every_shape_have_a_mask(size):
    evidence = both()
    guide = torch.nn.functional.interpolate(evidence.image_latent, size, mode="area")
    mask = refine(dataclasses.replace(evidence, image_latent=guide), OBJECTS, CHANGE)
    place = torch.nn.functional.interpolate(DOG[None, None].float(), size, mode="area")[0, 0] > 0.5
    assert iou(mask.binary[0], place) > 0.85


# ---- words ----


@pytest.mark.parametrize(("target", "place"), [("ball", BALL), ("BALL", BALL), ("grass", ~(DOG | BALL))])
def test_a_target_word_is_the_mask_whatever_the_change_says(target, place):
    mask = refine(both(), OBJECTS, dataclasses.replace(CHANGE, target=(target,)))
    assert iou(mask.binary[0], place) > 0.9
    assert OBJECTS.texts[mask.roles.index] == target.lower()
    assert mask.roles.weights[0, mask.roles.index].item() == 1


def test_a_target_word_is_the_mask_also_where_the_prompt_fits():
    mask = refine(changed((DOG, 0.8)), OBJECTS, dataclasses.replace(CHANGE, target=("dog",)))
    assert iou(mask.binary[0], DOG) > 0.9
    assert mask.fits.tolist() == [False]


def test_several_target_words_are_all_in_the_mask():
    mask = refine(both(), OBJECTS, dataclasses.replace(CHANGE, target=("dog", "ball")))
    assert iou(mask.binary[0], DOG | BALL) > 0.9
    assert mask.roles.weights[0, [0, 2]].tolist() == [1, 1]
    assert mask.roles.weights[0, 1] == -1


@pytest.mark.parametrize(
    ("places", "word"),
    [([(DOG, 1.3), (BALL, 0.8)], "dog"), ([(DOG, 0.8), (BALL, 1.3)], "ball"), ([(DOG, 0.8)], "grass")],
)
def test_the_index_word_is_the_word_that_lies_on_the_mask(places, word):
    roles = refine(changed(*places), OBJECTS, CHANGE).roles
    assert OBJECTS.texts[roles.index] == word
    assert roles.weights[0, roles.index].item() == 1


def test_words_that_lie_elsewhere_go_against_the_index_word():
    assert refine(both(), OBJECTS, CHANGE).roles.weights.tolist() == [[1, -1, -1]]


def test_a_target_word_that_lies_nowhere_gives_an_empty_mask():
    mask = refine(
        changed((DOG, 1.3), words=(DOG, NOWHERE)), prompt("dog", "cat"), MaskSettings("change", 0.5, ("cat",))
    )
    assert not mask.binary.any()
    assert mask.confidence.tolist() == [0]
