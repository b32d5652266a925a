"""The larger world for training: it holds all that the pack's own knows, and its masks are exact."""

import numpy as np
import pytest

from instdiff_core.mini.scenes import vocabulary
from instdiff_core.mini.training.corpus import Corpus, caption, caption_words, known


@pytest.fixture
def corpus(artwork):
    return Corpus(artwork)


def test_all_that_the_pack_knows_is_in_the_corpus():
    adjectives = {entry["word"]: {*entry["icons"]} for entry in known()["objects"]}
    for entry in vocabulary()["objects"]:
        assert {*entry["emoji"]} <= adjectives[entry["word"]] | {""}
    phrases = {entry["word"]: entry["phrase"] for entry in known()["backgrounds"]}
    for entry in vocabulary()["backgrounds"]:
        assert phrases[entry["word"]] == entry["phrase"]
    assert len(adjectives) >= 40
    assert len(phrases) >= 10


def test_pictures_show_none_to_three_objects_none_of_which_shares_a_pixel(corpus):
    counts = set()
    for seed in range(60):
        picture, masks, shown = corpus.scene(np.random.default_rng(seed), 128)
        assert (picture.shape, picture.dtype) == ((128, 128, 3), np.uint8)
        assert masks.shape == (len(shown.objects), 128, 128)
        assert masks.sum(0, initial=0).max() <= 1
        counts.add(len(masks))
    assert counts == {0, 1, 2, 3}


def test_a_caption_names_every_object_and_holds_only_words_that_are_listed(corpus):
    listed = {*caption_words()}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shown = corpus.scene(rng, 32)[2]
        words = caption(rng, shown).replace(",", " ,").split()
        assert {*words} <= listed
        assert {word for _, word in shown.objects} <= {*words}
        assert shown.objects or shown.background in words
