"""What Refine Instant Mask takes from its own inputs, and what it leaves for the mask editor."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from scipy import ndimage

from instdiff_core.answer import LEVELS
from instdiff_core.components import clean_masks
from instdiff_core.export import import_record
from instdiff_core.options import PRESETS
from instdiff_core.refine import refine_record
from instdiff_core.report import describe_mask
from tests.corrections import NOT_CORRECTIONS

NODE = "InstDiffRefineMask"


@pytest.fixture(scope="module")
def attention(host):
    with torch.inference_mode():
        latent = {"samples": torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 4}
        return host.capture(latent["samples"], positive=host.prompt("a frog on the grass"), steps=3)[1]


@pytest.fixture
def refine(host):
    """``refine(**inputs)``: mask, soft mask, report, the masks of the edits, and what the browser is told."""

    def run(**inputs):
        output = host.classes[NODE].execute(**{"steps": 0, **inputs})
        return *output.result, output.ui

    return run


@pytest.fixture
def left(refine):
    """``left(**inputs)``: the references for the browser, as JSON would carry them."""
    return lambda **inputs: json.loads(json.dumps(refine(**inputs)[4]))["instdiff_record"][0]


def place(reference):
    import folder_paths

    assert reference["type"] == "temp"
    return Path(folder_paths.get_temp_directory()) / reference["subfolder"] / reference["filename"]


def test_the_shape_and_what_is_corrected_by_hand_are_in_the_mask_and_its_area(attention, refine):
    plain, soft, *_ = refine(attention=attention, threshold=0.5)
    grown = refine(attention=attention, threshold=0.5, grow=5)[0]
    assert torch.equal(grown, torch.nn.functional.max_pool2d(plain, 11, 1, 5))
    text = '{"1": [["erase", [2048, 2048, 8000]], ["add", [1024, 2048, 1]], ["add", [1024, 2048, 320]]]}'
    masks, same, report, *_ = refine(attention=attention, threshold=0.5, grow=5, corrections=text)
    assert torch.equal(masks[0], grown[0])
    assert masks[1].sum() == pytest.approx(np.pi * 10**2, rel=0.02)
    assert masks[1, 64, 32] == 1
    assert torch.equal(same, soft)
    assert f"area {float(masks[1].mean()):.1%}" in report.splitlines()[1]


@pytest.mark.parametrize("text", NOT_CORRECTIONS, ids=range(len(NOT_CORRECTIONS)))
def test_what_is_no_correction_is_refused_with_what_to_do_before_anything_runs(host, attention, refine, text):
    refusal = host.classes[NODE].validate_inputs(corrections=text)
    assert refusal.startswith("corrections ")
    with pytest.raises(ValueError, match=re.escape(refusal)):
        refine(attention=attention, corrections=text)


def test_threshold_and_words_come_before_those_of_the_settings(host, attention, refine):
    settings = host.settings(threshold=0.3, words="grass")
    wanted = refine(attention=attention, settings=host.settings(threshold=0.7, words="a, Frog"))
    for own in ({"threshold": 0.7, "words": " a,Frog ,"}, {"threshold": 0.7, "words": "frog, a"}):
        found = refine(attention=attention, settings=settings, **own)
        assert torch.equal(found[0], wanted[0])
        assert found[2] == wanted[2]
    assert not torch.equal(wanted[0], refine(attention=attention, settings=settings)[0])


@pytest.mark.parametrize("own", [{}, {"threshold": 0.0, "words": ""}, {"threshold": 0.0, "words": " , "}])
def test_an_old_graph_and_the_defaults_take_the_settings(host, attention, refine, own):
    inputs = {"attention": attention, "settings": host.settings(threshold=0.3, words="grass")}
    assert all(torch.equal(*pair) for pair in zip(refine(**inputs)[:2], refine(**inputs, **own)[:2], strict=True))


def test_one_of_them_leaves_the_other_to_the_settings(host, attention, refine):
    settings = host.settings(threshold=0.3, words="grass", min_area=0.0)
    by_threshold = refine(attention=attention, settings=settings, threshold=0.8)
    by_words = refine(attention=attention, settings=settings, words="frog")
    assert "index word 'grass'" in by_threshold[2]
    assert torch.equal(by_words[0].bool(), by_words[1] >= 0.3)


def test_the_report_speaks_of_the_steps_that_count(attention, refine):
    assert "of 3, confidence" in refine(attention=attention)[2]
    one, two = (refine(attention=attention, steps=steps)[2] for steps in (1, 2))
    assert one.count("settled at step 1 of 1, confidence") == 2
    assert two.count("of 2, confidence") == 2


def test_the_editor_gets_the_record_and_the_settings_before_the_nodes_own(host, attention, left, make_picture):
    given = {"settings": host.settings(threshold=0.3, words="grass", share=True), "image": make_picture(1, 133, 130)}
    references = left(attention=attention, threshold=0.9, words="frog", **given)
    record, (settings,), pictures = import_record(place(references["record"]).read_bytes())
    for name in ("maps", "propagated", "image_latent"):
        assert torch.equal(getattr(record, name), getattr(attention, name))
    assert (record.sigmas, record.scale) == (attention.sigmas, attention.scale)
    assert record.words.texts == ("a", "frog", "on", "the", "grass")
    assert vars(settings) == vars(given["settings"])
    (picture,) = references["pictures"]
    with Image.open(place(picture)) as image:
        shown = np.asarray(image)
    assert shown.shape == (*attention.image_size, 3)
    assert pictures is not None
    assert pictures.shape == (1, *shown.shape)


@pytest.mark.one_host
@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize(
    "own", [{}, {"words": "grass, frog", "threshold": 0.37}, {"steps": 1, "words": "Frog"}], ids=str
)
def test_the_server_tells_the_editor_exactly_the_mask_of_the_node(host, refine, make_picture, preset, own):
    """Of a picture of whole numbers, as Load Image gives it, and of one whose border VAE Encode cuts off."""
    photo = torch.from_numpy(np.float32((make_picture(1, 133, 130) * 255).round().numpy()) / np.float32(255))
    attention = host.capture(host.vae.encode(photo), positive=host.prompt("a frog on the grass"), steps=3)[1]
    settings = host.settings(preset=preset, threshold=0.3)
    mask, *_, shown = refine(attention=attention, settings=settings, image=photo, **own)
    words = tuple(word.strip() for word in own.get("words", "").split(",") if word)
    name = shown["instdiff_record"][0]["record"]["filename"]
    file = host.hooks.routes.Refineries().answer(host.hooks.routes.Question(name, words, own.get("steps", 0), 0))
    threshold = own.get("threshold", 0.3)
    seen = clean_masks(load(file)["soft"] >= sum(level <= threshold for level in LEVELS), settings.min_area)
    top, across = (133 - 128) // 2, (130 - 128) // 2
    assert torch.equal(seen[0], mask[0, top : top + 128, across : across + 128].bool())


def test_pictures_are_one_for_all_or_one_each(attention, left, make_picture):
    size = attention.image_size
    counts = [len(left(attention=attention, image=make_picture(count, *size))["pictures"]) for count in (1, 2, 3)]
    assert counts == [1, 2, 2]
    assert left(attention=attention)["pictures"] == []


def test_pictures_are_those_that_came_in(attention, left, make_picture):
    picture = (make_picture(1, *attention.image_size) * 255).round() / 255
    (reference,) = left(attention=attention, image=picture)["pictures"]
    with Image.open(place(reference)) as image:
        assert np.array_equal(np.asarray(image), (picture[0] * 255).round().numpy())


@pytest.mark.one_host
@pytest.mark.parametrize("size", [(128, 128), (135, 130), (129, 134)])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_with_a_picture_the_masks_have_its_size(host, attention, refine, make_picture, size, preset):
    """VAE Encode keeps the middle of a picture: there the mask is, and its border goes on to the picture's."""
    picture, settings = make_picture(2, *size), host.settings(preset=preset)
    top, left = (size[0] - 128) // 2, (size[1] - 128) // 2
    middle = (slice(None), slice(top, top + 128), slice(left, left + 128))
    kept = refine(attention=attention, settings=settings, image=picture[middle])
    whole = refine(attention=attention, settings=settings, image=picture)
    for found, inside in zip(whole[:2], kept[:2], strict=True):
        assert found.shape == (2, *size)
        assert torch.equal(found[middle], inside)
        assert torch.equal(found[:, :top], found[:, top : top + 1].expand(-1, top, -1))
        beyond = found[:, :, left + 128 :]
        assert torch.equal(beyond, found[:, :, left + 127 : left + 128].expand_as(beyond))
    assert whole[0].unique().tolist() == [0, 1]


@pytest.mark.one_host
def test_the_mask_of_a_photo_of_any_size_fits_it(host, refine, make_picture):
    photo = make_picture(1, 300, 451)
    latent = host.vae.encode(photo)
    attention = host.capture(latent, steps=2)[1]
    mask, soft, *_ = refine(attention=attention, image=photo)
    assert mask.shape == soft.shape == (1, 300, 451)
    decoded = host.vae.decode(latent).shape[1:3]
    assert refine(attention=attention)[0].shape == (1, *decoded)
    inputs = host.sampling(None, steps=1) | {"vae": host.vae, "image": photo, "mask": mask}
    del inputs["latent_image"]
    _, area = host.run("InstDiffInpaintFinish", **inputs, grow=0, feather=0)
    assert torch.equal(area, mask)


def test_names_of_records_cannot_be_guessed(attention, left):
    names = [left(attention=attention)["record"]["filename"] for _ in range(3)]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"instdiff_[0-9a-f]{32}\.safetensors", name) for name in names)


def test_the_mask_is_still_previewed(attention, refine):
    assert len(refine(attention=attention)[4]["images"]) == 2


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"threshold": float("nan")}, "threshold must be from 0.0 to 1.0, not nan"),
        ({"words": "cat"}, "'cat' is not in the edit prompt: its words are a, frog, on, the, grass"),
        ({"words": "frog; grass"}, "'frog; grass' is not in the edit prompt"),
        ({"words": "frog" * 5000}, "words has 20000 characters"),
    ],
)
def test_what_is_wrong_is_said(attention, refine, own, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        refine(attention=attention, **own)


@pytest.mark.one_host
@pytest.mark.parametrize("scheduler", ["normal", "simple", "sgm_uniform", "beta", "karras"])
@pytest.mark.parametrize("steps", [4, 20])
def test_at_a_denoise_of_a_half_nobody_is_told_to_lower_it_and_far_above_everybody_is(host, latent, scheduler, steps):
    for denoise, advised in ((0.5, False), (0.8, True)):
        attention = host.capture(latent, steps=steps, scheduler=scheduler, denoise=denoise)[1]
        mask = replace(refine_record(attention, PRESETS["default"]), confidence=torch.zeros(1))
        assert ("denoise" in describe_mask(mask, attention, PRESETS["default"])) is advised


def test_specks_go_and_holes_are_filled_as_the_settings_say_and_the_soft_mask_keeps_them(host, attention, refine):
    def made(**changes):
        found = refine(attention=attention, settings=host.settings(threshold=0.3, words="frog", **changes))
        sides = found[0].numpy() > 0, found[0].numpy() == 0
        return found[1], sum(ndimage.label(picture)[1] for side in sides for picture in side)

    soft, pieces = zip(*(made(min_area=part) for part in (0.0, 0.02)), strict=True)
    assert pieces[1] < pieces[0]
    assert torch.equal(*soft)
    assert made()[1] == pieces[1]


def test_broken_text_is_refused_before_the_run(host):
    assert "broken character" in host.classes[NODE].validate_inputs(words="\ud800")
    assert host.classes[NODE].validate_inputs(words="frog, cat") is True


@pytest.mark.parametrize("prompt", ["a $, frog", "a frog, 10,000 +,+ times", "a 🐸,🐸 and, a cat"])
def test_every_word_can_be_named(host, latent, refine, prompt):
    attention = host.capture(latent, positive=host.prompt(prompt), steps=1)[1]
    for word in attention.words.texts:
        assert f"index word '{word}'" in refine(attention=attention, words=word)[2]
