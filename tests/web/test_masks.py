"""The mask that the browser cuts out of an answer, and corrects, is the mask that Python makes, to the pixel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from instdiff_core.answer import answer_question
from instdiff_core.components import clean_masks
from instdiff_core.corrections import Corrections
from instdiff_core.edits import part_masks
from instdiff_core.evidence import AttentionRecord
from instdiff_core.export import export_record, import_record
from instdiff_core.options import PRESETS, MaskShape
from instdiff_core.refine import refine_record, retouch_mask
from instdiff_core.refinery import EditRefineries
from instdiff_core.shape import shape_masks
from tests.corrections import NOT_CORRECTIONS
from tests.records import make_pictures, make_record

WORDS = ("a", "frog", "on", "the", "grass", "frog")
both_presets = pytest.mark.parametrize("settings", PRESETS.values(), ids=PRESETS)


@both_presets
@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "noise mask"])
@pytest.mark.parametrize("min_area", [0.0, 0.02, 1.0])
def test_every_threshold_cuts_what_python_cuts(editor, settings, masked, min_area):
    record = make_record(WORDS, latent=(24, 40), grid=(12, 20), seed=12)
    if masked:
        record = replace(record, noise_mask=torch.rand(1, 24, 40, generator=torch.Generator().manual_seed(0)) > 0.3)
    pictures = make_pictures(record, 1) ^ np.random.default_rng(0).integers(0, 2, (192, 320, 3), np.uint8) * 96
    floats = torch.from_numpy(np.float32(pictures) / np.float32(255)).movedim(-1, 1)
    settings = replace(settings, min_area=min_area, threshold=0.123)
    refinery = EditRefineries(*import_record(export_record(record, [settings], floats)))
    for words, steps in ((), 0), (("Frog",), 2):
        answer = answer_question(refinery, words, steps, 0)
        for threshold in (0.01, 0.123, 0.29, 0.5, 0.57, 0.8, 1):
            own = replace(settings, threshold=threshold, target=words)
            wanted = refine_record(record, own, steps or None, floats).binary[0].numpy()
            assert np.array_equal(editor.cut(answer, threshold), wanted)


@pytest.mark.parametrize("shape", [MaskShape(), MaskShape(True, 3, 9)], ids=["as found", "retouched"])
def test_of_several_edits_one_or_all_are_cut_as_in_python(editor, shape):
    """Each with settings and a noise mask of its own; the shape is changed of those that are shown alone."""
    edits = [make_record(WORDS, seed=1), make_record(("a", "red", "car"), seed=2)]
    noise_mask = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.3
    edits[1] = replace(edits[1], image_latent=edits[0].image_latent, noise_mask=noise_mask)
    settings = [PRESETS["default"], replace(PRESETS["default"], threshold=0.4, target=("car",), min_area=0.1)]
    joined = AttentionRecord.joined(edits)
    refineries = EditRefineries(*import_record(export_record(joined, settings, None)))
    for words, threshold in ((), 0), (("grass",), 0.55), (("frog", "red"), 0):
        for shown in range(3):
            chosen = [0, 1] if shown == 0 else [shown - 1]
            masks = []
            for number, (record, own) in enumerate(zip(edits, settings, strict=True)):
                if number in chosen:
                    named = tuple(name for name in words if name in record.words.texts)
                    own = replace(own, target=named or own.target, threshold=threshold or own.threshold)
                mask = refine_record(record, own)
                if number in chosen:
                    mask = retouch_mask(mask, shape, Corrections({}), record.noise_mask)
                masks.append(mask)
            wanted = torch.stack([part_masks(masks)[number].binary[0] for number in chosen]).any(0).numpy()
            answer = answer_question(refineries, words, 0, 0, shown)
            assert np.array_equal(editor.cut(answer, threshold, shape), wanted), (words, threshold, shown)


def test_any_mask_is_cleaned_as_in_python(editor):
    generator = np.random.default_rng(0)
    for number in range(60):
        size = generator.integers(1, 40, 2)
        mask, least = generator.random(size) < generator.choice([0, 0.2, 0.4, 0.6, 0.9, 1]), number % 11 / 10
        wanted = clean_masks(torch.from_numpy(mask)[None], least)[0].numpy()
        assert np.array_equal(editor.clean(mask, least), wanted), (number, size, least)


def test_any_mask_takes_the_shape_that_it_takes_in_python(editor):
    generator = np.random.default_rng(1)
    for number in range(80):
        size = generator.integers(1, 50, 2)
        mask = generator.random(size) < generator.choice([0, 0.1, 0.3, 0.5, 0.7, 0.95, 1])
        shape = MaskShape(bool(number % 2), int(generator.choice([0, 1, 3, 64])), int(generator.integers(-6, 7)))
        wanted = shape_masks(torch.from_numpy(mask)[None], shape)[0].numpy()
        assert np.array_equal(editor.shape(mask, shape), wanted), (number, size, shape)


def draw_anything(generator, count):
    """Strokes and dropped parts: thick and thin ones, dots, far outside, with pressure that changes, and none."""
    actions = []
    for _ in range(count):
        name = generator.choice(["add", "erase", "drop"])
        places = generator.integers(-300, 4400, (generator.integers(1, 6), 3))
        places[:, 2] = generator.integers(0, generator.choice([2, 60, 300, 1500]), len(places))
        if name != "drop":
            places[1:] -= places[:-1].copy()
        actions.append([str(name), (places[:, :2] if name == "drop" else places).ravel().tolist()])
    return json.dumps({"0": actions})


@pytest.mark.parametrize("longest", [40, 333, 700])
def test_any_corrections_are_drawn_as_in_python(editor, longest):
    generator = np.random.default_rng(longest)
    for number in range(40 if longest < 500 else 6):
        size = generator.integers(1, longest, 2)
        mask = np.kron(generator.random((9, 9)) < 0.4, np.ones(-(-size // 9), bool))[: size[0], : size[1]]
        text = draw_anything(generator, 8)
        wanted = Corrections.read(text).apply(torch.from_numpy(mask)[None])[0].numpy()
        assert np.array_equal(editor.correct(mask, text), wanted), (number, size, text)


def test_what_python_refuses_as_corrections_the_browser_does_not_draw(editor):
    for text in NOT_CORRECTIONS:
        assert not editor.reads(text), text


def test_the_words_at_a_place_come_strongest_first(editor):
    record = make_record(WORDS, batch=2, seed=11)
    answer = answer_question(EditRefineries(record, [PRESETS["default"]]), (), 2, 1)
    propagated = record.evidence(2).propagated[1, 3:]
    low, high = propagated.amin((-2, -1), keepdim=True), propagated.amax((-2, -1), keepdim=True)
    size = record.image_size
    values = torch.nn.functional.interpolate(((propagated - low) / (high - low))[None], size, mode="bilinear")[0]
    for x, y in [(0, 0), (100, 40), (size[1] - 1, size[0] - 1), (77, 200)]:
        acting = editor.words_at(answer, x, y)
        shares = [share for _, share in acting]
        assert shares == sorted(shares, reverse=True)
        assert all(share == pytest.approx(values[number, y, x].item(), abs=0.005) for number, share in acting)
        assert {number for number, _ in acting} >= set((values[:, y, x] > 0.005).nonzero().flatten().tolist())
