"""What a user is told of a mask."""

import json
from dataclasses import replace

import pytest
import torch

from instdiff_core.evidence import AttentionRecord
from instdiff_core.options import PRESETS
from instdiff_core.refine import Convergence, InstantMask, WordRoles
from instdiff_core.report import collect_facts, describe_mask
from instdiff_core.tokens import PromptWords, Word

WORDS = PromptWords((Word("hairy", (1,)), Word("dog", (2,)), Word("grass", (3,))), (0,), (4,), 77)
LOWER, RAISE, NAME = "lower the threshold", "raise the threshold", "name the word"


def mask_of(*areas, confidence=0.9, fits=False):
    """A mask with these areas, in a batch of 10x10; the index word is "dog"."""
    batch = len(areas)
    binary = torch.stack([torch.arange(100) < round(100 * area) for area in areas]).view(batch, 10, 10)
    roles = WordRoles(torch.ones(batch, dtype=torch.int64), torch.tensor([[0.0, 1.0, -1.0]]).repeat(batch, 1))
    return InstantMask(
        binary.float(), binary, roles, torch.full((batch,), confidence), torch.full((batch,), fits, dtype=torch.bool)
    )


def told_of(mask, convergence=None, noise_level=5.0, rest_ratio=None, **settings):
    """The report of a mask that was made with these settings of a run that began at this noise level."""
    nothing = torch.zeros(1, len(mask.binary), 6, 1, 1)
    record = AttentionRecord(
        nothing[:, :, :5], nothing, nothing[0, :, :4], WORDS, (noise_level,), 8, rest_ratio=rest_ratio
    )
    return describe_mask(mask, record, replace(PRESETS["default"], **settings), convergence)


def course_of(settled, agreement, steps=20):
    return Convergence(torch.tensor(settled), torch.tensor(agreement), steps)


def test_the_facts_are_the_words_the_area_and_the_confidence_and_are_json():
    found = json.loads(json.dumps(collect_facts(mask_of(0.25), WORDS)))
    assert found == {
        "index_word": "dog",
        "words": [{"word": "hairy", "weight": 0}, {"word": "dog", "weight": 1}, {"word": "grass", "weight": -1}],
        "fits": False,
        "mask_area": 0.25,
        "confidence": 0.9,
    }


def test_with_its_course_the_facts_name_the_step_and_disagreement_lowers_the_confidence():
    mask, run = mask_of(0.25, 0.5), course_of([4, 9], [1.0, 0.5])
    first, second = (json.loads(json.dumps(collect_facts(mask, WORDS, run, picture))) for picture in (0, 1))
    assert (first["settled"], first["steps"], first["confidence"]) == (4, 20, 0.9)
    assert (second["settled"], second["steps"], second["confidence"]) == (9, 20, 0.45)
    assert (first["mask_area"], second["mask_area"]) == (0.25, 0.5)


def test_a_mask_that_was_found_after_the_sampling_is_told_with_what_paints_it():
    told = "found only after the sampling, which has changed nothing in it: paint it with Inpaint Finish"
    asked = {"rest_ratio": torch.tensor([1.05])}
    assert told in told_of(mask_of(0.25), **asked)
    assert told not in told_of(mask_of(0.25, fits=True), **asked)
    assert told not in told_of(mask_of(0.25), target=("dog",), **asked)


def test_a_clear_mask_is_told_in_one_line_without_advice():
    assert told_of(mask_of(0.25)) == (
        "picture 1: index word 'dog' (hairy +0, dog +1, grass -1), area 25.0%, confidence 0.90"
    )


def test_the_step_at_which_a_mask_settled_is_told():
    assert "settled at step 4 of 20, confidence 0.90" in told_of(mask_of(0.25), convergence=course_of([4], [1.0]))


def test_an_empty_mask_says_how_to_get_one():
    told = told_of(mask_of(0, confidence=0.0))
    assert "The mask is empty" in told
    assert LOWER in told
    assert RAISE not in told
    assert "unsure" not in told


def test_a_full_mask_says_how_to_make_it_smaller():
    told = told_of(mask_of(1, confidence=0.0))
    assert "The mask is the whole picture" in told
    assert RAISE in told
    assert LOWER not in told
    assert "unsure" not in told


@pytest.mark.parametrize(("confidence", "unsure"), [(0.2, True), (0.69, True), (0.71, False), (1.0, False)])
def test_a_mask_of_low_confidence_is_called_unsure(confidence, unsure):
    assert ("The mask is unsure" in told_of(mask_of(0.3, confidence=confidence))) is unsure


def test_steps_that_disagree_make_a_clear_mask_unsure():
    told = told_of(mask_of(0.3, 0.3), convergence=course_of([1, 19], [1.0, 0.4])).splitlines()
    assert "unsure" not in told[0]
    assert "confidence 0.36" in told[1]
    assert "The mask is unsure" in told[1]


@pytest.mark.parametrize("noise_level", [1.55, 1.616, 0.3])
def test_a_run_at_a_denoise_of_a_half_or_less_is_not_told_to_use_that(noise_level):
    told = told_of(mask_of(0.3, confidence=0.2), noise_level=noise_level)
    assert told.endswith("unsure: name the words to use, or let several noises of the picture share a mask.")


@pytest.mark.parametrize("noise_level", [1.7, 14.6])
def test_a_run_with_more_noise_is_told_to_lower_denoise(noise_level):
    told = told_of(mask_of(0.3, confidence=0.2), noise_level=noise_level)
    assert told.endswith(
        "The mask is unsure: try a lower denoise (0.3 to 0.5 with Stable Diffusion), or name the words to use."
    )


@pytest.mark.parametrize(
    ("done", "left"),
    [
        ({"target": ("dog",)}, "let several noises of the picture share a mask"),
        ({"share": True}, "name the words to use"),
        ({"target": ("dog",), "share": True}, "try another seed"),
        ({"target": ("dog",), "noise_level": 5.0}, "try a lower denoise (0.3 to 0.5 with Stable Diffusion)"),
    ],
)
def test_nothing_is_advised_that_is_done_already(done, left):
    assert told_of(mask_of(0.3, confidence=0.2), **{"noise_level": 1.0, **done}).endswith(f"unsure: {left}.")


def test_a_prompt_that_fits_is_told_with_what_to_do_if_that_is_wrong():
    told = told_of(mask_of(0.7, fits=True))
    assert collect_facts(mask_of(0.7, fits=True), WORDS)["fits"] is True
    assert "The prompt fits what stands out in the picture, so the mask is the rest" in told
    assert NAME in told
    assert "unsure" not in told


def test_a_prompt_that_fits_with_an_unsure_mask_is_told_both():
    told = told_of(mask_of(0.7, confidence=0.3, fits=True))
    assert "The prompt fits what stands out" in told
    assert "The mask is unsure" in told


def test_every_picture_of_a_batch_has_its_line():
    lines = told_of(mask_of(0, 0.4, 1)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["picture 1", "picture 2", "picture 3"]
    assert ["empty" in line for line in lines] == [True, False, False]
    assert ["whole picture" in line for line in lines] == [False, False, True]


def test_a_large_mask_of_few_pixels_is_not_called_empty_and_one_that_lacks_few_not_the_whole():
    binary = torch.zeros(2, 512, 512, dtype=torch.bool)
    binary[0, 5:7, 5:7] = True
    binary[1] = ~binary[0]
    small = mask_of(0.5, 0.5)
    told = told_of(InstantMask(binary.float(), binary, small.roles, small.confidence, small.fits)).splitlines()
    assert "empty" not in told[0]
    assert "whole picture" not in told[1]
