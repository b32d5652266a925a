"""What the mask editor is told of a record."""

from __future__ import annotations

import difflib
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from instdiff_core.answer import LEVELS, answer_question, count_levels
from instdiff_core.evidence import AttentionRecord
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.refine import refine_record
from instdiff_core.refinery import EditRefineries
from tests.records import make_record

WORDS = ("a", "Frog", "on", "the", "grass", "frog")
DEFAULT = PRESETS["default"]


def refinery_of(record: AttentionRecord, settings: MaskSettings) -> EditRefineries:
    return EditRefineries(record, [settings])


def ask(
    refineries: EditRefineries, words: tuple[str, ...] = (), steps: int = 0, number: int = 0, edit: int = 0
) -> dict[str, Any]:
    """The answer's tensors and its entries."""
    file = answer_question(refineries, words, steps, number, edit)
    length = struct.unpack("<Q", file[:8])[0]
    return load(file) | json.loads(json.loads(file[8 : 8 + length])["__metadata__"]["answer"])


@pytest.mark.parametrize("threshold", [0.01, 0.29, 0.5, 0.57, 0.58, 1.0, 0.333])
def test_cut_at_any_threshold_of_the_editor_it_is_the_mask_to_the_pixel(threshold):
    """Also at that of the settings, which may be between two levels."""
    record = make_record(WORDS, seed=1)
    settings = replace(DEFAULT, threshold=threshold, min_area=0)
    answer = ask(refinery_of(record, settings))
    reached = sum(level <= threshold for level in answer["levels"])
    assert np.array_equal(answer["soft"][0] >= reached, refine_record(record, settings).binary[0])


def test_a_pixel_on_a_level_reaches_it_and_one_just_below_does_not():
    on = torch.tensor(LEVELS)
    below = torch.from_numpy(np.nextafter(on.numpy(), np.float32(0)))
    numbers = torch.arange(1, len(LEVELS) + 1)
    assert torch.equal(count_levels(on[None], LEVELS)[0].long(), numbers)
    assert torch.equal(count_levels(below[None], LEVELS)[0].long(), numbers - 1)
    assert count_levels(torch.zeros(1, 1), LEVELS).item() == 0


def test_the_noise_mask_comes_beside_the_soft_mask_that_does_not_end_at_it():
    noise_mask = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    record = make_record(WORDS, seed=2)
    plain, masked = (ask(refinery_of(source, DEFAULT)) for source in (record, replace(record, noise_mask=noise_mask)))
    assert "noise_mask" not in plain
    assert torch.equal(masked["soft"], plain["soft"])
    assert torch.equal(masked["noise_mask"][0].bool(), noise_mask[0].repeat_interleave(8, 0).repeat_interleave(8, 1))


def test_it_tells_what_the_run_was():
    settings = replace(DEFAULT, target=("grass",), threshold=0.4, min_area=0.1)
    answer = ask(refinery_of(make_record(WORDS, batch=2, steps=4), settings))
    assert answer["words"] == list(WORDS)
    assert (answer["steps"], answer["batch"]) == (4, 2)
    assert (answer["target"], answer["thresholds"], answer["min_areas"]) == (["grass"], [0.4], [0.1])


def test_roles_are_those_of_the_mask():
    record = make_record(WORDS, batch=2, seed=3)
    for words in ((), ("frog",)):
        mask = refine_record(record, replace(DEFAULT, target=words))
        for number in (0, 1):
            answer = ask(refinery_of(record, DEFAULT), words, number=number)
            assert answer["indices"] == [mask.roles.index[number]]
            assert answer["weights"] == mask.roles.weights[number].tolist()
            assert answer["fits"] == mask.fits[number]


def test_every_name_is_told_with_the_words_that_it_covers():
    answer = ask(refinery_of(make_record(WORDS), replace(DEFAULT, target=("GRASS",))), ("FROG", "cat", "a frog"))
    of_words = {"a": [0], "Frog": [1, 5], "on": [2], "the": [3], "grass": [4], "frog": [1, 5]}
    assert answer["numbers"] == of_words | {"FROG": [1, 5], "cat": [], "a frog": [0, 1], "GRASS": [4]}


CASES = [("FROG", "frog"), ("ß", "SS"), ("STRASSE", "straße"), ("STRAẞE", "Strasse"), ("ΟΔΟΣ", "οδος"), ("İ", "i̇")]


@pytest.mark.parametrize(("name", "word"), CASES)
def test_case_is_ignored_as_python_does(name, word):
    assert ask(refinery_of(make_record(("grass", word)), DEFAULT), (name,))["numbers"][name] == [1]


@pytest.mark.parametrize(("name", "word"), [("I", "ı"), ("ı", "i"), ("İ", "i")])
def test_letters_that_are_not_the_same_to_python_are_not_the_same(name, word):
    assert ask(refinery_of(make_record(("grass", word)), DEFAULT), (name,))["numbers"][name] == []


def test_words_that_are_not_in_the_prompt_are_told_with_the_nearest_and_else_ignored():
    refinery = refinery_of(make_record(WORDS, seed=4), DEFAULT)
    assert ask(refinery, ("frog",))["nearest"] is None
    answer = ask(refinery, ("frog", "gras", "fog"))
    assert answer["nearest"] == difflib.get_close_matches("gras", WORDS, 1)[0] == "grass"
    assert torch.equal(answer["soft"], ask(refinery, ("frog",))["soft"])
    assert torch.equal(ask(refinery, ("xyz",))["soft"], ask(refinery)["soft"])


def test_a_target_of_the_settings_that_is_not_in_the_prompt_is_no_error():
    answer = ask(refinery_of(make_record(WORDS), replace(DEFAULT, target=("cat",))))
    assert (answer["target"], answer["numbers"]["cat"]) == (["cat"], [])


def test_more_steps_than_there_are_mean_all():
    refinery = refinery_of(make_record(WORDS, seed=5), DEFAULT)
    every, one = (ask(refinery, steps=steps)["soft"] for steps in (0, 1))
    assert torch.equal(ask(refinery, steps=9999)["soft"], every)
    assert not torch.equal(one, every)


@pytest.mark.parametrize("number", [2, 10**9])
def test_a_picture_that_is_not_there_is_refused(number):
    with pytest.raises(IndexError, match=f"no picture {number}"):
        ask(refinery_of(make_record(WORDS, batch=2), DEFAULT), number=number)


def test_all_edits_are_told_one_after_the_other():
    edits = [make_record(WORDS, seed=1), make_record(("a", "red", "car"), seed=2)]
    settings = [DEFAULT, replace(DEFAULT, threshold=0.4, target=("car",))]
    refineries = EditRefineries(AttentionRecord.joined(edits), settings)
    every, *single = (ask(refineries, ("frog",), edit=edit) for edit in (0, 1, 2))
    assert every["words"] == [*WORDS, "a", "red", "car"]
    assert every["numbers"] == {"a": [0, 6], "Frog": [1, 5], "on": [2], "the": [3], "grass": [4]} | {
        "frog": [1, 5], "red": [7], "car": [8]
    }  # fmt: skip
    for name in ("soft", "word_maps"):
        assert torch.equal(every[name], torch.cat([answer[name] for answer in single])), name
    for name in ("thresholds", "min_areas", "weights"):
        assert every[name] == [value for answer in single for value in answer[name]], name
    assert every["indices"] == [single[0]["indices"][0], 6 + single[1]["indices"][0]]
    assert every["edits"] == [" ".join(edit.words.texts) for edit in edits]
    assert "own" not in every


@pytest.mark.parametrize("edit", [-1, 2])
def test_an_edit_that_is_not_there_is_refused(edit):
    with pytest.raises(IndexError, match="there is no edit"):
        ask(refinery_of(make_record(WORDS), DEFAULT), edit=edit)
