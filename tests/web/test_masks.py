"""The browser's masks are those that Python makes of the same record and the same pictures.

At most `APART` of the pixels may differ, and only pixels whose soft mask is as good as the threshold.
"""

from __future__ import annotations

import difflib
import itertools
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from instdiff_core.components import clean_masks
from instdiff_core.evidence import ERROR, ERROR_WITHOUT, AttentionRecord
from instdiff_core.export import export_record
from instdiff_core.mini.scenes import compose
from instdiff_core.options import PRESETS, FinishOptions, MaskSettings, SamplingOptions
from instdiff_core.pipeline import edit, load_mini
from instdiff_core.refine import refine_record
from tests.records import make_pictures, make_record
from tests.web.core import Core

APART = 0.002
ROUNDING = 1e-4
"""How far the soft masks may be apart."""

WORDS = ("a", "frog", "on", "the", "grass", "frog")
DEFAULT, PAPER = PRESETS["default"], PRESETS["paper"]
both_presets = pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])


def assert_same(
    core: Core, record: AttentionRecord, settings: MaskSettings, pictures: NDArray[np.uint8] | None = None,
    **choice: Any,
) -> None:  # fmt: skip
    """Every picture of the batch has the same mask, index word and weights in both."""
    own = replace(
        settings,
        threshold=choice.get("threshold", 0) or settings.threshold,
        target=choice.get("words", ()) or settings.target,
    )
    colours = None if pictures is None else torch.tensor(pictures).movedim(-1, 1) / 255
    wanted = refine_record(record, own, choice.get("steps", 0) or None, colours)
    core.open(export_record(record, settings), pictures)
    for number in range(record.maps.shape[1]):
        found = core.refine(**choice, picture=number)
        soft, different = wanted.soft[number].numpy(), found.binary != wanted.binary[number].numpy()
        assert different.mean() <= APART
        assert abs(found.soft - soft).max() <= ROUNDING
        assert (abs(soft - own.threshold)[different] <= ROUNDING).all()
        assert found.index == int(wanted.roles.index[number])
        assert found.weights == wanted.roles.weights[number].int().tolist()
        assert found.fits == bool(wanted.fits[number])
        assert found.area == pytest.approx(found.binary.mean())
        assert (found.threshold, tuple(found.words)) == (own.threshold, own.target)


@both_presets
@pytest.mark.parametrize("with_picture", [False, True], ids=["no picture", "picture"])
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"threshold": 0.05},
        {"threshold": 0.35},
        {"threshold": 0.8},
        {"threshold": 1},
        {"words": ("Frog",)},
        {"words": ("grass", "a")},
        {"steps": 1},
        {"steps": 2, "words": ("the",), "threshold": 0.6},
        {"steps": 99},
    ],
    ids=str,
)
def test_every_choice(core, settings, with_picture, choice):
    for seed in range(2):
        record = make_record(WORDS, seed=seed, steps=4)
        assert_same(core, record, settings, make_pictures(record, 1, seed) if with_picture else None, **choice)


@both_presets
@pytest.mark.parametrize(
    "changes",
    [
        {"blur": 0},
        {"blur": 5},
        {"share": True},
        {"share": True, "target": ("frog",)},
        {"threshold": 0.0},
        {"target": ("grass",)},
        {"positive": 0.3, "negative": 0.0},
        {"positive": 1.0, "negative": -1.0},
    ],
    ids=str,
)
def test_every_setting_on_a_batch(core, settings, changes):
    record = make_record(WORDS, batch=2, seed=3)
    for pictures in (None, make_pictures(record, 1), make_pictures(record, 2)):
        assert_same(core, record, replace(settings, **changes), pictures)


@both_presets
@pytest.mark.parametrize(
    ("grid", "latent"),
    [
        ((7, 9), (13, 19)),
        ((5, 16), (10, 31)),
        ((1, 1), (4, 4)),
        ((16, 8), (64, 32)),
        ((12, 12), (12, 12)),
        ((3, 40), (2, 9)),
    ],
    ids=str,
)
def test_every_size(core, settings, grid, latent):
    record = make_record(WORDS, grid=grid, latent=latent, seed=4)
    for pictures in (None, make_pictures(record, 1)):
        assert_same(core, record, settings, pictures)
        assert_same(core, record, settings, pictures, words=("frog",))


@both_presets
@pytest.mark.parametrize("changes", [{}, {"threshold": 0.0}, {"share": True}, {"target": ("grass",)}], ids=str)
def test_a_noise_mask_of_each_picture(core, settings, changes):
    record = make_record(WORDS, batch=2, latent=(24, 32), seed=3)
    noise_mask = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    masked = replace(record, noise_mask=noise_mask)
    for pictures in (None, make_pictures(record, 2)):
        assert_same(core, masked, replace(settings, **changes), pictures)
        outside = ~noise_mask[1].repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
        found = core.refine(picture=1)
        assert not found.binary[outside].any()
        assert not found.soft[outside].any()


@both_presets
@pytest.mark.parametrize("min_area", [0.0, 0.2, 1.0])
def test_specks_and_holes(core, settings, min_area):
    """What the browser cuts by itself it cleans as Python would, to the pixel, at every threshold."""
    record = make_record(WORDS, batch=2, latent=(24, 40), grid=(12, 20), seed=12)
    pictures = make_pictures(record, 2)
    pictures ^= np.random.default_rng(0).integers(0, 2, pictures.shape, np.uint8) * 96
    cut = {}
    for name, part in (("raw", 0.0), ("clean", min_area)):
        core.open(export_record(record, replace(settings, min_area=part)), pictures)
        cut[name] = [core.refine(threshold=level, picture=picture) for level in (0.1, 0.5, 0.7) for picture in (0, 1)]
    for raw, clean in zip(cut["raw"], cut["clean"], strict=True):
        assert np.array_equal(clean.binary, clean_masks(torch.tensor(raw.binary)[None], min_area)[0].numpy())
        assert np.array_equal(clean.soft, raw.soft)
        assert clean.area == pytest.approx(clean.binary.mean())
    assert any((raw.binary != clean.binary).any() for raw, clean in zip(*cut.values(), strict=True)) is (min_area > 0)


def test_any_mask_is_cleaned_as_in_python(core):
    generator = np.random.default_rng(0)
    clean = """async ([pixels, width, least]) => {
        const { clean } = await import("/core/components.js");
        const mask = Uint8Array.from(pixels);
        clean(mask, width, least);
        return [...mask];
    }"""
    for number in range(60):
        size = generator.integers(1, 40, 2)
        mask, least = generator.random(size) < generator.choice([0, 0.2, 0.4, 0.6, 0.9, 1]), number % 11 / 10
        found = core.page.evaluate(clean, [mask.astype(int).ravel().tolist(), int(size[1]), least])
        wanted = clean_masks(torch.from_numpy(mask)[None], least)[0].numpy()
        assert np.array_equal(np.array(found, bool).reshape(size), wanted), (number, size, least)


def test_a_record_of_an_older_version_has_its_specks(core):
    record = make_record(WORDS, seed=1)
    file = export_record(record, replace(DEFAULT, min_area=0))
    key = b', \\"min_area\\": 0'
    assert file.count(key) == 1
    older = struct.pack("<Q", struct.unpack("<Q", file[:8])[0]) + file[8:].replace(key, b" " * len(key))
    core.open(older)
    assert np.array_equal(core.refine().binary, refine_record(record, replace(DEFAULT, min_area=0)).binary[0].numpy())


@both_presets
def test_one_word_and_one_hundred(core, settings):
    for texts in (("frog",), tuple(f"word{number}" for number in range(100))):
        assert_same(core, make_record(texts, seed=5), settings)


@both_presets
@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
def test_maps_that_say_nothing(core, settings, value):
    record = make_record(WORDS, seed=6)
    flat = torch.full_like(record.maps, value)
    propagated = torch.full_like(record.propagated, 0.0 if value != value else value)
    for changed in (
        replace(record, maps=flat, propagated=propagated),
        replace(record, maps=flat, propagated=propagated, image_latent=torch.zeros_like(record.image_latent)),
    ):
        assert_same(core, changed, settings, np.full((1, *record.image_size, 3), 77, np.uint8))
        assert_same(core, changed, settings, words=("frog",))


@both_presets
def test_single_maps_that_say_nothing(core, settings):
    record = make_record(WORDS, seed=7)
    maps, propagated = record.maps.clone(), record.propagated.clone()
    maps[:, :, 3], maps[:, :, 5] = 0, float("inf")
    propagated[:, :, 4] = 0.5
    assert_same(core, replace(record, maps=maps, propagated=propagated), settings, words=("on", "frog"))


def test_a_prompt_that_fits_what_is_there(core):
    record = make_record(WORDS, seed=8)
    propagated = record.propagated.clone()
    propagated[:, :, ERROR] = propagated[:, :, ERROR_WITHOUT] * 0.95
    fitting = replace(record, propagated=propagated)
    assert_same(core, fitting, DEFAULT, make_pictures(record, 1))
    assert core.refine().fits
    assert not core.refine(words=("frog",)).fits


def test_a_run_without_negative_prompt(core):
    record = make_record(WORDS, seed=9)
    propagated = record.propagated.clone()
    propagated[:, :, ERROR_WITHOUT] = 0
    assert_same(core, replace(record, propagated=propagated), DEFAULT, make_pictures(record, 1))


def test_steps_without_a_prediction_without_prompt_where_others_have_one(core):
    record = make_record(WORDS, steps=4, seed=13)
    propagated = record.propagated.clone()
    propagated[2:, :, ERROR_WITHOUT] = 0
    for steps in (0, 1, 3):
        assert_same(core, replace(record, propagated=propagated), DEFAULT, make_pictures(record, 1), steps=steps)


@pytest.mark.parametrize(("subject", "background"), [("cat", "grass"), ("dog", "sand")])
def test_runs_of_the_mini_model(core, subject, background):
    pixels = compose(np.random.default_rng(5), [subject], background, size=128)[0]
    record = edit(
        load_mini(),
        pixels,
        "a frog on the grass",
        sampling=SamplingOptions(4, noise_samples=2),
        finishing=FinishOptions(strength=0),
    ).record
    for settings, share in itertools.product((DEFAULT, PAPER), (False, True)):
        for choice in ({}, {"words": ("frog",)}, {"steps": 1, "threshold": 0.4}):
            assert_same(core, record, replace(settings, share=share), pixels[None], **choice)


def test_moving_back_and_forth_forgets_nothing(core):
    record = make_record(WORDS, batch=2, steps=4, seed=10)
    moves: list[dict[str, Any]] = [
        {},
        {"steps": 2},
        {"words": ("grass",)},
        {"picture": 1},
        {"threshold": 0.7},
        {},
        {"picture": 1, "steps": 2},
    ]
    file, pictures = export_record(record, DEFAULT), make_pictures(record, 2)
    core.open(file, pictures)
    moved = [core.refine(**move) for move in moves]
    for move, found in zip(moves, moved, strict=True):
        core.open(file, pictures)
        assert np.array_equal(core.refine(**move).soft, found.soft)


def test_the_words_at_a_place_come_strongest_first(core):
    record = make_record(WORDS, batch=2, seed=11)
    core.open(export_record(record, DEFAULT))
    propagated = record.evidence(2).propagated[1, 3:]
    low, high = propagated.amin((-2, -1), keepdim=True), propagated.amax((-2, -1), keepdim=True)
    size = record.image_size
    values = torch.nn.functional.interpolate(((propagated - low) / (high - low))[None], size, mode="bilinear")[0]
    for x, y in [(0, 0), (100, 40), (size[1] - 1, size[0] - 1), (77, 200)]:
        found = core.words_at(x, y, steps=2, picture=1)
        here = values[:, y, x]
        assert [value for _, value in found] == pytest.approx(sorted(here[here > 0].tolist(), reverse=True), abs=1e-5)
        assert all(value == pytest.approx(here[number].item(), abs=1e-5) for number, value in found)


def test_places_outside_the_picture_have_the_words_of_its_border(core):
    core.open(export_record(make_record(WORDS), DEFAULT))
    assert core.words_at(-5, 1e6) == core.words_at(0, 255)


CASES = [
    ("FROG", "frog"),
    ("ß", "SS"),
    ("STRASSE", "straße"),
    ("STRAẞE", "Strasse"),
    ("ΟΔΟΣ", "οδος"),
    ("ÉTÉ", "été"),
    ("İ", "i̇"),
]


@pytest.mark.parametrize(("word", "prompt"), CASES)
def test_case_is_ignored_as_in_python(core, word, prompt):
    record = make_record((prompt, "grass"))
    assert_same(core, record, DEFAULT, words=(word,))
    assert core.refine(words=(word,)).index == 0


def folded_in_browser(core, texts):
    return core.page.evaluate("async (texts) => texts.map((await import('/core/words.js')).folded)", list(texts))


def test_words_are_the_same_where_python_says_so(core):
    """Of all letters that any case knows, one in a word: Python's and the browser's Unicode may differ in age only."""
    cased = [chr(code) for code in range(0x250) if chr(code).isalpha()]
    cased += [letter for code in range(0x250, 0x1E00) if (letter := chr(code)).casefold() != letter and code < 0x590]
    rest = (*range(0x1E00, 0x2000), 0x212A, 0x212B, *range(0xFB00, 0xFB07))
    cased += [chr(code) for code in rest if chr(code).isalpha()]
    words = [f"x{letter}y" for letter in cased]
    assert folded_in_browser(core, words) == [word.casefold() for word in words]


@pytest.mark.parametrize(("word", "prompt"), [("I", "ı"), ("ı", "i"), ("İ", "i")])
def test_letters_that_are_not_the_same_in_python_are_not_the_same(core, word, prompt):
    core.open(export_record(make_record((prompt, "grass")), DEFAULT))
    with pytest.raises(Exception, match="is not in the edit prompt"):
        core.refine(words=(word,))


def test_a_word_that_is_not_in_the_prompt_is_named_with_the_nearest(core):
    core.open(export_record(make_record(WORDS), DEFAULT))
    with pytest.raises(Exception, match='"cat" is not in the edit prompt\\.'):
        core.refine(words=("frog", "cat"))
    with pytest.raises(Exception, match='"Frogs" is not in the edit prompt; the nearest is "frog"\\.'):
        core.refine(words=("Frogs",))


def test_the_nearest_word_is_the_one_that_python_names(core):
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcd"), generator.integers(1, 9))) for _ in range(400)]
    for name, words in zip(texts[:80], zip(*[iter(texts[80:])] * 4, strict=True), strict=True):
        found = core.page.evaluate(
            "async ([name, words]) => (await import('/core/words.js')).nearest(name, words) ?? null", [name, words]
        )
        assert found == next(iter(difflib.get_close_matches(name, words, 1)), None)
