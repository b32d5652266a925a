"""Composed pictures: their masks are the truth that everything else is measured by."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from instdiff_core.mini.scenes import (
    background_words,
    caption,
    compose,
    object_names,
    object_words,
    vocabulary,
    with_article,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def grown(mask):
    """The mask and the soft edge of the artwork around it."""
    pixels = len(mask) // 64
    image = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return np.asarray(image) > 0


@pytest.mark.parametrize("name", object_names())
def test_the_mask_is_what_the_object_changed(name):
    size = vocabulary()["picture_size"]
    for seed, background in enumerate(background_words()):
        empty, no_masks = compose(rng(seed), [], background)
        picture, masks = compose(rng(seed), [name], background)
        assert no_masks.shape == (0, size, size)
        assert masks.shape == (1, size, size)
        changed = (picture.astype(int) != empty).any(-1)
        assert changed[masks[0]].mean() > 0.97
        assert not changed[~grown(masks[0])].any()


@pytest.mark.parametrize("size", [64, 128, 200])
def test_pictures_have_the_size_asked_for_and_objects_their_scale(size):
    for seed in range(20):
        picture, masks = compose(rng(seed), ["ball"], "sand", size=size, scale=(0.5, 0.6))
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        rows, columns = np.nonzero(masks[0])
        assert 0.45 * size < max(np.ptp(rows), np.ptp(columns)) + 1 < 0.62 * size


def test_two_objects_both_show_in_the_order_given_and_never_share_a_pixel():
    for seed in range(30):
        picture, masks = compose(rng(seed), ["red apple", "frog"], "snow")
        assert not (masks[0] & masks[1]).any()
        assert masks.mean((1, 2)).min() > 0.01
        red, green = (picture[mask].mean(0) for mask in masks)
        assert red[0] > red[1]
        assert green[1] > green[0]


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    first, same, other = (compose(rng(seed), ["cat", "blue car"], "bricks") for seed in (5, 5, 6))
    assert np.array_equal(first[0], same[0])
    assert np.array_equal(first[1], same[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


def test_an_adjective_says_which_and_a_bare_word_any():
    def redness(name, seed):
        picture, masks = compose(rng(seed), [name], "snow")
        colour = picture[masks[0]].mean(0)
        return colour[0] > colour[1]

    assert all(redness("red apple", seed) for seed in range(10))
    assert not any(redness("green apple", seed) for seed in range(10))
    assert {bool(redness("apple", seed)) for seed in range(20)} == {True, False}


@pytest.mark.parametrize(
    ("objects", "background", "message"),
    [
        (["unicorn"], "grass", "no object 'unicorn': choose one of .*'cat'"),
        (["cat", "green dog"], "grass", "no object 'green dog'"),
        (["cat"], "moon", "no background 'moon': choose one of .*'grass'"),
        (["cat", "dog", "pig"], "grass", "at most two objects"),
    ],
)
def test_names_that_it_does_not_know_are_refused_with_those_it_does(objects, background, message):
    with pytest.raises(ValueError, match=message):
        compose(rng(), objects, background)


@pytest.mark.parametrize("objects", [[], ["apple"], ["red car", "dog"]])
def test_a_caption_names_every_object_and_nothing_that_is_not_there(objects):
    seen = {caption(rng(seed), objects, "water") for seed in range(60)}
    assert len(seen) >= 2
    for text in seen:
        assert "{" not in text
        assert all(with_article(name) in text for name in objects)
        named = [word for word in text.split() if word in object_words()]
        assert named == [name.split()[-1] for name in objects]
        assert not any(word in text.split() for word in background_words() if word != "water")
    assert any("water" in text for text in seen)


def test_no_caption_form_speaks_of_more_than_two_objects():
    for forms in vocabulary()["captions"].values():
        for form in forms:
            assert form.count("{object}") + form.count("{other}") <= 2


def test_articles_fit_their_nouns():
    assert with_article("apple") == "an apple"
    assert with_article("red apple") == "a red apple"


def test_the_vocabulary_is_as_large_as_promised():
    assert len(set(object_words())) >= 16
    assert len(set(background_words())) >= 6
    assert vocabulary()["picture_size"] >= 128
