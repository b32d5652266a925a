"""Photos that are larger than what the model was made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from instdiff_core.mini.scenes import compose
from instdiff_core.options import FinishOptions, SamplingOptions
from instdiff_core.pipeline import EditModel, edit, edit_photo, load_mini
from tests.bench.photos import make_pair

FEW: dict[str, Any] = {"sampling": SamplingOptions(6), "finishing": FinishOptions(2, strength=0.5)}


@pytest.fixture(scope="module")
def model() -> EditModel:
    return load_mini()


@pytest.fixture(scope="module")
def photo() -> tuple[np.ndarray, np.ndarray]:
    """A photo of 900 x 700 pixels with a cat of a third of its height, and the cat's mask."""
    picture = compose(np.random.default_rng(3), [], "grass", size=900)[0][:700].copy()
    cat, masks = compose(np.random.default_rng(4), ["cat"], "grass", size=300, scale=(0.9, 0.95))
    truth = np.zeros(picture.shape[:2], bool)
    truth[250:550, 400:700] = masks[0]
    picture[truth] = cat[masks[0]]
    return picture, truth


def test_a_large_photo_comes_back_at_its_size_and_bit_for_bit_outside_the_edit(
    model: EditModel, photo: tuple[np.ndarray, np.ndarray]
) -> None:
    picture, truth = photo
    result = edit_photo(model, picture, "a frog on the grass", seed=1, **FEW)
    mask = result.mask.binary[0].numpy()
    changed = (result.picture != picture).any(-1)
    assert result.picture.shape == result.unfinished.shape == picture.shape
    assert mask.shape == result.mask.soft[0].shape == truth.shape
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert changed[mask].mean() > 0.9
    rows, columns = np.nonzero(changed)
    inside = np.nonzero(mask)
    room = 16 * 900 / 256  # of the finish's edge, enlarged from the smallest crop that there can be
    assert rows.min() > inside[0].min() - room
    assert rows.max() < inside[0].max() + room
    assert columns.min() > inside[1].min() - room
    assert columns.max() < inside[1].max() + room


def test_several_noise_samples_share_the_mask_of_a_small_thing_in_a_large_photo(model: EditModel) -> None:
    picture = compose(np.random.default_rng(3), [], "grass", size=640)[0].copy()
    cat, masks = compose(np.random.default_rng(4), ["cat"], "grass", size=64, scale=(0.9, 0.95))
    picture[440:504, 400:464][masks[0]] = cat[masks[0]]
    result = edit_photo(
        model, picture, "a frog on the grass", sampling=SamplingOptions(3, noise_samples=2), finishing=FEW["finishing"]
    )
    assert result.record.maps.shape[1] == 2
    assert result.picture.shape == picture.shape


def test_several_edits_of_a_large_photo_come_out_of_one_crop(
    model: EditModel, photo: tuple[np.ndarray, np.ndarray]
) -> None:
    picture, truth = photo
    result = edit_photo(model, picture, ["a frog on the grass", "a cat on the sand"], seed=1, **FEW)
    first, second = (mask.binary[0].numpy() for mask in result.masks)
    assert result.picture.shape == picture.shape
    assert first.shape == second.shape == truth.shape
    assert not (first & second).any()
    assert np.array_equal(first | second, result.mask.binary[0].numpy())
    assert (first & truth).sum() > (second & truth).sum()
    assert (second & ~truth).sum() > (first & ~truth).sum()


def test_a_word_says_which_thing_of_a_large_photo_is_edited(model: EditModel) -> None:
    picture, truths = make_pair()
    few: dict[str, Any] = {"sampling": SamplingOptions(3), "finishing": FinishOptions(strength=0)}
    mask = edit_photo(model, picture, "a dog", there="a tree", **few).mask.binary[0].numpy()
    assert (mask & truths["tree"]).sum() / (mask | truths["tree"]).sum() > 0.5
    assert not mask[truths["bird"]].any()


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (["a dog", "a frog"], {}, "for a single edit prompt"),
        ("a dog", {"mask": np.ones((64, 64), bool)}, "without a mask"),
        ("a dog", {"there": " "}, "holds no words"),
    ],
)
def test_a_word_that_cannot_be_looked_for_is_refused(model: EditModel, prompt: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit_photo(model, np.zeros((64, 64, 3), np.uint8), prompt, **{"there": "a bird", **options})


def test_a_mask_of_ones_own_is_for_a_single_edit(model: EditModel) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="for a single edit prompt"):
        edit_photo(model, picture, ["a dog", "a frog"], mask=np.ones((64, 64), bool))


def test_a_large_picture_of_another_kind_is_refused(model: EditModel) -> None:
    with pytest.raises(ValueError, match="uint8"):
        edit_photo(model, np.zeros((600, 600, 3), np.float32), "a dog")


def test_a_picture_of_the_models_own_size_is_edited_as_it_is(model: EditModel) -> None:
    picture = compose(np.random.default_rng(5), ["cat"], "grass")[0]
    whole, direct = (way(model, picture, "a dog", **FEW).picture for way in (edit_photo, edit))
    assert np.array_equal(whole, direct)
