"""The paper's mask: its steps in plain numpy (docs/method.md, 4), and what a user sees of them."""

import numpy as np
import pytest
import torch

from instdiff_core.options import MaskSettings
from instdiff_core.refine import refine
from tests.core.drawn import PAPER, SCENE_WORDS, attention, blob, iou, prompt, scene, tensor


def resize_matrix(old, new):
    """Rows of the bicubic kernel with a = -0.75, borders repeated, pixel centres at halves."""
    matrix = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        left = int(np.floor(place))
        for tap in range(left - 1, left + 3):
            d = abs(place - tap)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[row, min(max(tap, 0), old - 1)] += near if d <= 1 else far if d < 2 else 0
    return matrix


def stretched(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def smoothed(values):
    taps = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(values, 2, mode="edge")
    height, width = values.shape
    return sum(kernel[i, j] * padded[i : i + height, j : j + width] for i in range(5) for j in range(5))


def by_hand(maps, size, phi=0.2, positive=0.9, negative=0.6, blur=2):
    maps = [m / m.max() for m in maps]
    maps = [resize_matrix(m.shape[0], size[0]) @ m @ resize_matrix(m.shape[1], size[1]).T for m in maps]
    maps[0] = 1 - maps[0]
    maps = [stretched(m) for m in maps]
    start, words = maps[0], maps[2:]
    index = int(np.argmax([cosine(start, word) for word in words]))
    similarity = [cosine(word, words[index]) for word in words]
    weights = [1 if s >= positive else -1 if s <= negative else 0 for s in similarity]
    mask = stretched(np.mean([word for word, k in zip(words, weights, strict=True) if k == 1], axis=0))
    against = [word for word, k in zip(words, weights, strict=True) if k == -1]
    if against:
        mask = np.clip(mask - stretched(np.mean(against, axis=0)), 0, None)
    for _ in range(blur):
        mask = smoothed(mask)
    soft = stretched(mask)
    return soft, soft >= phi, index, weights


@pytest.mark.parametrize(("grid", "size"), [((16, 16), (64, 64)), ((16, 16), (16, 16)), ((12, 20), (48, 80))])
@pytest.mark.parametrize("settings", [PAPER, MaskSettings(threshold=0.5, negative=0.3, blur=0)])
def test_the_mask_is_the_papers(grid, size, settings):
    maps = scene(grid)
    soft, binary, index, weights = by_hand(
        maps, size, settings.threshold, negative=settings.negative, blur=settings.blur
    )
    mask = refine(attention(tensor(maps), size), SCENE_WORDS, settings)
    assert mask.roles.index.tolist() == [index]
    assert mask.roles.weights.tolist() == [weights]
    np.testing.assert_allclose(mask.soft[0].numpy(), soft, atol=2e-4)
    clear = np.abs(soft - settings.threshold) > 1e-3
    assert np.array_equal(mask.binary[0].numpy()[clear], binary[clear])
    assert 0 < binary.mean() < 0.5
    assert mask.fits.tolist() == [False]


def test_the_start_tokens_inverse_finds_the_object_and_likeness_gives_the_roles():
    mask = refine(attention(tensor(scene())), SCENE_WORDS, PAPER)
    assert SCENE_WORDS.texts[mask.roles.index] == "dog"
    assert mask.roles.weights.tolist() == [[1, 1, 0, -1]]


def test_three_pixels_by_hand():
    # After 2d: start 1-[.5,.75,1]/1 -> [1,.5,0]; dog [1,.5,0]; grass [0,0,1]: unlike the dog, so -1.
    maps = tensor([[[0.4, 0.6, 0.8]], [[0.1, 0.1, 0.2]], [[0.3, 0.2, 0.1]], [[0.0, 0.0, 0.7]]])
    mask = refine(attention(maps, (1, 3)), prompt("dog", "grass"), MaskSettings(blur=0, threshold=0.4))
    assert mask.roles.weights.tolist() == [[1, -1]]
    torch.testing.assert_close(mask.soft, torch.tensor([[[1.0, 0.5, 0.0]]]))
    assert mask.binary.tolist() == [[[True, True, False]]]
    # Otsu: 2/3 at .75 and 1/3 at 0 around .5, of a variance of 1/6.
    torch.testing.assert_close(mask.confidence, torch.tensor([(2 / 3 * 0.25**2 + 1 / 3 * 0.5**2) * 6]))


def test_one_word_makes_the_mask_alone():
    dog = blob(9, 4)
    mask = refine(attention(tensor([1 - 0.5 * blob(3, 3), dog, dog])), prompt("dog"), MaskSettings(blur=0))
    torch.testing.assert_close(mask.soft[0], tensor(stretched(dog))[0])


def test_the_roles_are_those_of_the_first_step_and_the_places_those_of_all():
    first, later = tensor(scene()), scene()
    later[0] = 0.9 - 0.5 * blob(12, 11, 2.5)
    later = tensor(later)
    assert SCENE_WORDS.texts[refine(attention(later), SCENE_WORDS, PAPER).roles.index] == "grass"
    mask = refine(attention(later, first=first), SCENE_WORDS, PAPER)
    assert SCENE_WORDS.texts[mask.roles.index] == "dog"
    torch.testing.assert_close(mask.soft, refine(attention(first), SCENE_WORDS, PAPER).soft)
    moved = refine(attention(first.roll(4, -1), first=first), SCENE_WORDS, PAPER)
    assert moved.binary[0, 5, 9]
    assert not moved.binary[0, 5, 3]


def test_a_word_wholly_inside_what_is_taken_away_leaves_an_empty_mask():
    same = blob(5, 5)
    differences = tensor([1 - same, same, same, blob(12, 12)])
    mask = refine(attention(tensor([1 - same, same, same, same]), (37, 51), differences), prompt("dog", "grass"), PAPER)
    assert mask.roles.weights.tolist() == [[1, -1]]
    assert not mask.binary.any()


def test_brightness_of_a_map_does_not_matter_to_the_paper():
    maps = tensor(scene())
    factors = torch.tensor([0.3, 70.0, 0.01, 5.0, 0.2, 40.0]).view(1, -1, 1, 1)
    plain, scaled = (refine(attention(m, (64, 64)), SCENE_WORDS, PAPER) for m in (maps, maps * factors))
    torch.testing.assert_close(scaled.soft, plain.soft, atol=1e-4, rtol=0)
    assert torch.equal(scaled.roles.weights, plain.roles.weights)


@pytest.mark.parametrize("target", ["grass", "GRASS"])
def test_a_target_word_moves_the_papers_mask_to_it(target):
    evidence = attention(tensor(scene()))
    found, wanted = (refine(evidence, SCENE_WORDS, MaskSettings(target=t)) for t in ((), (target,)))
    assert found.binary[0, 5, 5]
    assert not found.binary[0, 12, 11]
    assert wanted.binary[0, 12, 11]
    assert not wanted.binary[0, 5, 5]
    assert SCENE_WORDS.texts[wanted.roles.index] == "grass"


def test_several_target_words_are_all_in_the_papers_mask_and_no_other_word_helps():
    mask = refine(attention(tensor(scene())), SCENE_WORDS, MaskSettings(target=("dog", "grass")))
    assert mask.binary[0, 5, 5]
    assert mask.binary[0, 12, 11]
    assert mask.roles.weights[0, [1, 3]].tolist() == [1, 1]
    assert mask.roles.weights[0, [0, 2]].max() <= 0


@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
@pytest.mark.parametrize("dead", [0, 1, 2, 4, 5])
def test_one_map_that_says_nothing_still_leaves_the_paper_a_mask(value, dead):
    maps = tensor(scene())
    maps[:, dead] = value
    mask = refine(attention(maps, (37, 51)), SCENE_WORDS, PAPER)
    assert torch.isfinite(mask.soft).all()
    # without the start map nothing says which word is the object
    assert mask.binary[0, 12, 17] or dead == 0
    assert 0 < mask.binary.float().mean() < 0.5


def test_one_cell_that_says_nothing_leaves_the_papers_word_its_place():
    maps = tensor(scene())
    maps[:, 3, 0, 15] = float("nan")
    mask, whole = (refine(attention(each, (64, 64)), SCENE_WORDS, PAPER) for each in (maps, tensor(scene())))
    assert iou(mask.binary, whole.binary) > 0.8
    assert torch.equal(mask.roles.weights, whole.roles.weights)
