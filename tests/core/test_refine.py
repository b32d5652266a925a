"""The instant mask: the paper's steps by hand, and what a user sees of the method "change"."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from instdiff_core.evidence import AttentionRecord, Evidence
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.refine import (
    find_target_words,
    refine,
    refine_record,
    resize_mask,
    trace_convergence,
)
from instdiff_core.tokens import PromptWords, Word

GRID = (16, 16)
PAPER, CHANGE = PRESETS["paper"], PRESETS["default"]


def prompt(*texts):
    words = tuple(Word(text, (i + 1,)) for i, text in enumerate(texts))
    return PromptWords(words, (0,), (len(texts) + 1,), 77)


def tensor(*maps):
    return torch.from_numpy(np.stack(maps)).float()


def iou(mask, other):
    return ((mask & other).sum() / (mask | other).sum()).item()


PARTS = ("first", "maps", "propagated", "image_latent")


def part_of(evidence, rows):
    return Evidence(*(getattr(evidence, part)[rows] for part in PARTS))


def joined(*evidences):
    return Evidence(*(torch.cat([getattr(each, part) for each in evidences]) for part in PARTS))


# ---- pictures for the method "attention": Gaussian bumps in the cross-attention ----


def blob(y, x, spread=2.0, grid=GRID):
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2))


def scene(grid=GRID):
    """Maps of "hairy dog runs grass": the dog at the upper left, the grass at the lower right."""
    dog = blob(5, 5, grid=grid)
    start = 0.9 - 0.5 * dog
    hairy = blob(5.3, 5.4, grid=grid)
    runs = blob(6.4, 6.4, grid=grid)
    grass = blob(12, 11, 2.5, grid)
    end = blob(2, 13, grid=grid)
    return np.stack([start, end, 0.02 + 0.05 * hairy, 0.01 + 0.2 * dog, 0.3 * runs, 0.4 * grass])


SCENE_WORDS = prompt("hairy", "dog", "runs", "grass")


def attention(maps, size=GRID, first=None):
    """Evidence with these cross-attention maps; the propagated maps and the latent say nothing."""
    batch, channels = maps.shape[:2]
    propagated = torch.zeros(batch, channels + 1, *maps.shape[-2:])
    return Evidence(maps if first is None else first, maps, propagated, torch.zeros(batch, 4, *size))


# ---- pictures for the method "change": discs in a latent of 64x64 whose colours the guide shows ----


def disc(y, x, radius, size=(64, 64)):
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


DOG, BALL, NOWHERE = disc(22, 20, 12), disc(46, 46, 10), torch.zeros(64, 64, dtype=torch.bool)
OBJECTS = prompt("dog", "grass", "ball")


def at_grid(values):
    return torch.nn.functional.adaptive_avg_pool2d(values[None].float(), GRID)[0]


def changed(*places, words=(DOG, ~(DOG | BALL), BALL), plain_guide=False):
    """Evidence where the prompt changes `places`, each a disc and the ratio of the prompt's error to that without."""
    change, error, guide = torch.full((64, 64), 0.1), torch.full((64, 64), 0.4), torch.zeros(4, 64, 64)
    for number, (place, ratio) in enumerate(places):
        change = change + place
        error = torch.where(place, 0.4 * ratio, error)
        guide = guide + place * torch.tensor([1.0, -1.0, 0.5, 2.0]).roll(number).view(4, 1, 1)
    guide = guide + 0.05 * torch.randn(guide.shape, generator=torch.Generator().manual_seed(0))
    signals = [at_grid(change), at_grid(error), at_grid(torch.full((64, 64), 0.4))]
    propagated = torch.stack([*signals, *(0.02 + 0.1 * at_grid(word) for word in words)])[None]
    maps = torch.cat([torch.ones(1, 2, *GRID), propagated[:, 3:]], 1)
    return Evidence(maps, maps, propagated, guide[None] * (not plain_guide))


def both():
    """A picture of a dog and a ball, of which the prompt contradicts the dog."""
    return changed((DOG, 1.3), (BALL, 0.8))


# ---- the paper's steps, in plain numpy (docs/method.md, 4) ----


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


# ---- the method "change": what the prompt contradicts ----


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


# ---- the method "change": words ----


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


# ---- what holds for both methods ----


def three_pictures(method):
    if method == "change":
        return joined(both(), changed((DOG, 0.8)), changed((disc(40, 24, 16), 1.3), plain_guide=True))
    maps = scene()
    batch = tensor(maps, maps[:, ::-1].copy(), np.concatenate([maps[:2], maps[[3, 2, 5, 4]]]))
    return attention(batch, (48, 48))


def words_of(method):
    return OBJECTS if method == "change" else SCENE_WORDS


METHODS = {"attention": PAPER, "change": CHANGE}
for_both_methods = pytest.mark.parametrize("method", METHODS)


@for_both_methods
def test_the_order_of_words_does_not_matter(method):
    evidence, words = part_of(three_pictures(method), slice(1)), words_of(method)
    order = [2, 0, 1, 3][: len(words.words)]
    mixed_words = prompt(*(words.texts[i] for i in order))
    maps, propagated = [0, 1, *(2 + i for i in order)], [0, 1, 2, *(3 + i for i in order)]
    mixed = Evidence(
        evidence.first[:, maps], evidence.maps[:, maps], evidence.propagated[:, propagated], evidence.image_latent
    )
    expected, found = refine(evidence, words, METHODS[method]), refine(mixed, mixed_words, METHODS[method])
    torch.testing.assert_close(found.soft, expected.soft, atol=1e-5, rtol=0)
    assert mixed_words.texts[found.roles.index] == words.texts[expected.roles.index]
    assert torch.equal(found.roles.weights, expected.roles.weights[:, order])


@for_both_methods
@pytest.mark.parametrize("targeted", [False, True])
def test_a_batch_gives_what_its_pictures_give_alone(method, targeted):
    batch, words = three_pictures(method), words_of(method)
    settings = dataclasses.replace(METHODS[method], target=words.texts[1:2] if targeted else ())
    together = refine(batch, words, settings)
    for number in range(3):
        alone = refine(part_of(batch, slice(number, number + 1)), words, settings)
        torch.testing.assert_close(together.soft[number], alone.soft[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.confidence[number], alone.confidence[0], atol=1e-3, rtol=0)
        assert torch.equal(together.roles.index[number], alone.roles.index[0])
        assert torch.equal(together.roles.weights[number], alone.roles.weights[0])
        assert torch.equal(together.fits[number], alone.fits[0])


@for_both_methods
def test_share_gives_every_picture_the_mask_of_the_mean(method):
    batch, words = three_pictures(method), words_of(method)
    shared = refine(batch, words, dataclasses.replace(METHODS[method], share=True))
    mean = refine(batch.shared(), words, METHODS[method])
    assert shared.soft.shape == batch.image_latent[:, 0].shape
    for number in range(3):
        assert torch.equal(shared.soft[number], mean.soft[0])
        assert torch.equal(shared.binary[number], mean.binary[0])
        assert torch.equal(shared.roles.weights[number], mean.roles.weights[0])
        assert torch.equal(shared.roles.index[number], mean.roles.index[0])
        assert torch.equal(shared.confidence[number], mean.confidence[0])
        assert torch.equal(shared.fits[number], mean.fits[0])


def test_draws_that_each_see_a_part_share_the_whole():
    whole, left, right = (disc(32, 32, 14) & part for part in (~NOWHERE, disc(32, 0, 32), ~disc(32, 0, 32)))
    draws = joined(changed((left, 1.3)), changed((right, 1.3)))
    draws = dataclasses.replace(draws, image_latent=changed((whole, 1.3)).image_latent.repeat(2, 1, 1, 1))
    shared = refine(draws, OBJECTS, dataclasses.replace(CHANGE, share=True)).binary
    assert iou(shared[0], whole) > 0.9
    assert iou(refine(draws, OBJECTS, CHANGE).binary[0], whole) < 0.7


@for_both_methods
@pytest.mark.parametrize("extra", [{}, {"target": ("dog",)}, {"share": True}, {"blur": 3}])
def test_the_device_is_never_waited_for(method, extra):
    """A tensor on the meta device has no values: to ask for one raises."""
    first, maps, propagated, guide = (
        torch.empty(2, *shape, device="meta") for shape in [(6, 16, 16), (6, 16, 16), (7, 16, 16), (4, 64, 64)]
    )
    settings = dataclasses.replace(METHODS[method], min_area=0.0, **extra)
    mask = refine(Evidence(first, maps, propagated, guide), SCENE_WORDS, settings)
    assert mask.binary.device.type == mask.confidence.device.type == mask.fits.device.type == "meta"
    assert mask.binary.shape == (2, 64, 64)
    large = resize_mask(mask, (512, 512), settings, torch.empty(1, 3, 512, 512, device="meta"))
    assert large.binary.device.type == "meta"
    assert large.binary.shape == (2, 512, 512)


@for_both_methods
def test_a_higher_threshold_never_grows_the_mask(method):
    evidence = part_of(three_pictures(method), slice(1))
    settings = [dataclasses.replace(METHODS[method], threshold=t) for t in np.linspace(0, 1, 11).tolist()]
    masks = [refine(evidence, words_of(method), each) for each in settings]
    for lower, higher in itertools.pairwise(masks):
        assert not (higher.binary & ~lower.binary).any()
    assert masks[1].binary.sum() > masks[9].binary.sum() > 0
    assert masks[0].binary.all()


@for_both_methods
def test_more_blur_makes_a_softer_mask(method):
    evidence = part_of(three_pictures(method), slice(1))
    sharp, soft = (
        refine(evidence, words_of(method), dataclasses.replace(METHODS[method], blur=b)).soft for b in (0, 8)
    )
    assert soft.diff().abs().max() < sharp.diff().abs().max()


@for_both_methods
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (16, 16)])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seen", [True, False])
def test_evidence_that_says_nothing_gives_an_empty_mask(method, value, size, count, seen):
    words = prompt(*["dog", "grass", "sky"][:count])
    maps, propagated = torch.full((2, 2 + count, 16, 16), value), torch.full((2, 3 + count, 16, 16), value)
    guide = torch.randn(2, 4, *size) if seen else torch.full((2, 4, *size), 0.3)
    mask = refine(Evidence(maps, maps, propagated, guide), words, METHODS[method])
    assert not mask.soft.any()
    assert not mask.binary.any()
    assert mask.confidence.tolist() == [0, 0]
    assert mask.fits.tolist() == [False, False]
    assert mask.roles.weights.take_along_dim(mask.roles.index[:, None], 1).tolist() == [[1], [1]]
    large = resize_mask(mask, (128, 128), METHODS[method], torch.rand(2, 3, 128, 128))
    assert not large.binary.any()


@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
def test_words_that_say_nothing_leave_the_change_its_mask(value):
    evidence = both()
    evidence.propagated[:, 3:] = value
    mask = refine(evidence, OBJECTS, CHANGE)
    assert iou(mask.binary[0], DOG) > 0.9
    assert mask.roles.weights[0, mask.roles.index].item() == 1


@for_both_methods
def test_a_dead_picture_does_not_touch_its_neighbour_in_the_batch(method):
    batch, words = part_of(three_pictures(method), slice(2)), words_of(method)
    for part in (batch.first, batch.maps, batch.propagated):
        part[1] = float("nan")
    mask, alone = (refine(e, words, METHODS[method]) for e in (batch, part_of(batch, slice(1))))
    torch.testing.assert_close(mask.soft[:1], alone.soft, atol=1e-4, rtol=0)
    assert not mask.soft[1].any()
    assert mask.confidence[0] > mask.confidence[1] == 0


@for_both_methods
def test_a_target_that_is_not_in_the_prompt_is_named_with_the_words_that_are(method):
    settings = dataclasses.replace(METHODS[method], target=("dog", "cat"))
    with pytest.raises(ValueError, match="'cat' is not in the edit prompt: its words are hairy, dog, runs, grass"):
        refine(attention(tensor(scene())), SCENE_WORDS, settings)


@pytest.mark.parametrize(
    ("name", "near"), [("dogs", "dog"), ("GRAS", "grass"), ("hairy dog", "hairy"), ("run", "runs"), ("zzz", None)]
)
def test_the_word_that_was_meant_is_named(name, near):
    with pytest.raises(ValueError, match="its words are hairy, dog, runs, grass") as error:
        find_target_words(SCENE_WORDS, (name,))
    assert str(error.value).partition("; the nearest is ")[2] == (repr(near) if near else "")


def test_a_long_prompt_is_not_listed_whole_but_the_word_that_was_meant_is_still_named():
    words = prompt(*(f"word{number}" for number in range(70)), "teapot", "word1")
    with pytest.raises(ValueError, match="'teapots' is not in the edit prompt") as error:
        find_target_words(words, ("teapots",))
    assert "word11 and 59 more; the nearest is 'teapot'" in str(error.value)
    assert "word12" not in str(error.value)


@for_both_methods
def test_a_prompt_without_words_is_refused(method):
    with pytest.raises(ValueError, match="the edit prompt holds no words"):
        refine(attention(torch.rand(1, 2, 16, 16)), prompt(), METHODS[method])


def test_a_start_token_that_lights_up_on_the_object_misleads_the_paper_but_not_the_default():
    maps = changed((DOG, 1.3)).maps
    maps[:, 0] = 0.4 + 0.5 * at_grid(DOG)
    evidence = dataclasses.replace(changed((DOG, 1.3)), first=maps, maps=maps)
    index = {name: OBJECTS.texts[refine(evidence, OBJECTS, PRESETS[name]).roles.index] for name in PRESETS}
    assert index == {"default": "dog", "paper": "grass"}


# ---- another size ----


def test_the_papers_mask_at_another_size_is_cut_at_the_threshold_again():
    settings = MaskSettings(threshold=0.4)
    mask = resize_mask(refine(attention(tensor(scene())), SCENE_WORDS, settings), (40, 72), settings)
    assert mask.soft.shape == (1, 40, 72)
    assert torch.equal(mask.binary, mask.soft >= 0.4)
    assert 0 < mask.binary.float().mean() < 0.5


def test_the_picture_does_not_touch_the_papers_mask():
    mask = refine(attention(tensor(scene())), SCENE_WORDS, PAPER)
    plain, followed = (resize_mask(mask, (64, 64), PAPER, picture) for picture in (None, torch.rand(1, 3, 64, 64)))
    assert torch.equal(plain.soft, followed.soft)


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_mask_at_image_size_has_the_edges_of_the_picture(pictures):
    large = disc(22 * 8 + 5, 20 * 8 + 1, 12 * 8, (512, 512))
    picture = (0.2 + 0.5 * large).expand(pictures, 3, -1, -1) + 0.02 * torch.rand(pictures, 3, 512, 512)
    mask = refine(part_of(changed((DOG, 1.3)), [0, 0]), OBJECTS, CHANGE)
    plain, followed = (resize_mask(mask, (512, 512), CHANGE, given) for given in (None, picture))
    assert followed.soft.shape == (2, 512, 512)
    for number in range(2):
        assert iou(followed.binary[number], large) > 0.97
        assert iou(plain.binary[number], large) < iou(followed.binary[number], large)


@pytest.mark.parametrize("seen", [True, False])
def test_one_half_is_the_best_cut_of_a_mask_at_image_size(seen):
    """Also of one that resizing, or other edges, made weaker; the paper's threshold stays where it is."""
    mask = refine(both(), OBJECTS, CHANGE)
    weaker = dataclasses.replace(mask, soft=0.4 * mask.soft)
    picture = torch.rand(1, 3, 256, 256) if seen else None
    expected, found = (resize_mask(each, (256, 256), CHANGE, picture).binary for each in (mask, weaker))
    assert iou(found, expected) > 0.98
    assert iou(found[0, ::4, ::4], DOG) > 0.75
    assert not resize_mask(weaker, (256, 256), dataclasses.replace(PAPER, threshold=0.5)).binary.any()


# ---- the record of a run ----


def get_record(*steps, settings=None, sigmas=None, words=SCENE_WORDS, size=(32, 32)):
    """A record whose steps have these cross-attention maps ``[batch, channels, h, w]``."""
    maps = torch.stack(steps).half()
    propagated = torch.cat([torch.ones_like(maps[:, :, :3]), maps[:, :, 2:]], 2)
    sigmas = sigmas or tuple(float(len(steps) - i) for i in range(len(steps)))
    return AttentionRecord(maps, propagated, torch.zeros(maps.shape[1], 4, *size).half(), words, sigmas, 8)


def record_of(evidence, words, scale):
    """The record of a run of one step that said this."""
    maps, propagated = (part[None].half() for part in (evidence.maps, evidence.propagated))
    return AttentionRecord(maps, propagated, evidence.image_latent.half(), words, (5.0,), scale)


def test_a_record_is_refined_at_image_size_with_the_roles_of_its_first_step():
    second = scene()
    second[0] = 0.9 - 0.5 * blob(12, 11, 2.5)
    mask = refine_record(get_record(tensor(scene()), tensor(second)), MaskSettings())
    assert mask.soft.shape == mask.binary.shape == (1, 256, 256)
    assert SCENE_WORDS.texts[mask.roles.index] == "dog"
    assert mask.binary[0, 88, 88]
    assert torch.equal(mask.binary, mask.soft >= 0.2)


@pytest.mark.parametrize("settings", [PAPER, dataclasses.replace(CHANGE, target=("dog",))])
def test_fewer_steps_refine_as_if_the_run_had_ended_there(settings):
    steps = [tensor(np.roll(scene(), shift, axis=2)) for shift in (0, 3, 6)]
    two = refine_record(get_record(*steps, sigmas=(3.0, 2.0, 1.0)), settings, steps=2).soft
    assert torch.equal(two, refine_record(get_record(*steps[:2], sigmas=(3.0, 2.0)), settings).soft)
    assert not torch.equal(two, refine_record(get_record(*steps, sigmas=(3.0, 2.0, 1.0)), settings).soft)


def test_a_record_follows_the_edges_of_the_picture_that_is_given():
    evidence = changed((DOG, 1.3))
    record = record_of(evidence, OBJECTS, 2)
    large = disc(45, 41, 24, (128, 128))
    plain, followed = (
        refine_record(record, CHANGE, picture=given).binary[0] for given in (None, large.expand(1, 3, -1, -1).float())
    )
    assert iou(followed, large) > 0.97
    assert iou(plain, large) < iou(followed, large)


# ---- the latent's own noise mask ----


def halves(size):
    """A noise mask that lets the sampler edit the left half of the first picture, and the upper of the second."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return torch.from_numpy(np.stack([columns < size[1] // 2, rows < size[0] // 2]))


@for_both_methods
@pytest.mark.parametrize("changes", [{}, {"threshold": 0.0}, {"share": True}], ids=str)
def test_nothing_outside_the_noise_mask_is_in_the_mask_and_all_inside_stays_as_it_is(method, changes):
    settings = dataclasses.replace(METHODS[method], **changes)
    free, words = part_of(three_pictures(method), slice(2)), words_of(method)
    noise_mask = halves(free.image_latent.shape[-2:])
    expected = refine(free, words, settings)
    found = refine(dataclasses.replace(free, noise_mask=noise_mask), words, settings)
    assert (expected.binary & ~noise_mask).any()
    assert torch.equal(found.binary, expected.binary & noise_mask)
    assert torch.equal(found.soft, expected.soft * noise_mask)
    assert torch.equal(found.confidence, expected.confidence)


@for_both_methods
@pytest.mark.parametrize("changes", [{}, {"threshold": 0.0}, {"share": True}], ids=str)
@pytest.mark.parametrize("seen", [True, False])
def test_at_image_size_the_mask_ends_at_the_pixel_where_the_noise_mask_does(method, changes, seen):
    settings = dataclasses.replace(METHODS[method], **changes)
    evidence = part_of(three_pictures(method), slice(2))
    record = record_of(evidence, words_of(method), 8)
    noise_mask = halves(record.latent_size)
    picture = torch.rand(1, 3, *record.image_size) if seen else None
    expected = refine_record(record, settings, picture=picture)
    found = refine_record(dataclasses.replace(record, noise_mask=noise_mask), settings, picture=picture)
    allowed = noise_mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert (expected.binary & ~allowed).any()
    assert torch.equal(found.binary, expected.binary & allowed)
    assert torch.equal(found.soft, expected.soft * allowed)


def test_a_mask_of_nothing_but_the_forbidden_half_is_empty():
    right = torch.arange(64).expand(1, 64, 64) >= 40
    found = refine(dataclasses.replace(changed((DOG, 1.3)), noise_mask=right), OBJECTS, CHANGE)
    assert not found.binary.any()


# ---- how a mask came about ----


def jumping(*places, batch_of=1):
    """A word's map, at one of two far places in each step."""
    spots = {"left": blob(8, 3, 1.5), "right": blob(8, 12, 1.5)}
    maps = [tensor([np.ones(GRID), np.ones(GRID), spots[place], 1 - spots[place]]) for place in places]
    return [each.repeat(batch_of, 1, 1, 1) for each in maps]


FOLLOWED = dataclasses.replace(CHANGE, target=("dog",))
PLACES = prompt("dog", "grass")


def test_a_mask_that_jumps_settles_at_the_step_of_the_jump():
    # noise so low in the first two steps that the third outweighs them
    steps = jumping("left", "left", "right", "right", "right")
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 0.1, 1.0, 1.0, 1.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [3]
    assert found.agreement.item() == pytest.approx(3 / 5, abs=0.01)
    assert found.steps == 5


def test_a_mask_that_never_changes_settles_at_the_first_step_and_agrees_wholly():
    found = trace_convergence(get_record(*jumping("left", "left", "left"), words=PLACES), FOLLOWED)
    assert (found.settled.tolist(), found.agreement.tolist(), found.steps) == ([1], [1.0], 3)


def test_a_mask_that_jumps_in_the_last_step_settles_there():
    found = trace_convergence(get_record(*jumping("left", "right"), sigmas=(0.1, 2.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [2]
    assert found.agreement.item() == pytest.approx(1 / 2)


def test_a_mask_that_comes_back_settles_where_it_came_back():
    steps = jumping("right", "left", "right")
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 0.3, 1.5), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [3]
    assert found.agreement.item() == pytest.approx(2 / 3, abs=0.01)


def test_every_picture_of_a_batch_has_its_own_course():
    steps = [torch.cat(pair) for pair in zip(jumping("left", "left"), jumping("left", "right"), strict=True)]
    found = trace_convergence(get_record(*steps, sigmas=(0.1, 2.0), words=PLACES), FOLLOWED)
    assert found.settled.tolist() == [1, 2]
    assert found.agreement.tolist() == pytest.approx([1, 1 / 2])


def test_masks_that_are_empty_in_every_step_agree():
    nothing = [torch.zeros(1, 4, *GRID)] * 3
    found = trace_convergence(get_record(*nothing, words=PLACES), CHANGE)
    assert (found.settled.tolist(), found.agreement.tolist()) == ([1], [1.0])


def test_draws_that_disagree_lower_the_agreement_of_the_mask_that_they_share():
    steps = [torch.cat(pair) for pair in zip(jumping("left", "left"), jumping("right", "right"), strict=True)]
    record, shared = get_record(*steps, words=PLACES), dataclasses.replace(FOLLOWED, share=True)
    found = trace_convergence(record, shared)
    own, common = (refine(record.evidence(), PLACES, settings).binary for settings in (FOLLOWED, shared))
    expected = (iou(own[0], common[0]) + iou(own[1], common[1])) / 2
    assert expected < 0.7
    assert found.agreement.tolist() == pytest.approx([expected, expected])
    assert found.settled.tolist() == [1, 1]
    agreeing = get_record(*jumping("left", "left", batch_of=2), words=PLACES)
    assert trace_convergence(agreeing, shared).agreement.tolist() == pytest.approx([1, 1])


# ---- settings ----


def test_settings_cannot_be_changed_behind_a_users_back():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["paper"].threshold = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["paper"] = MaskSettings(threshold=0.5)  # type: ignore[index]


def test_the_presets_are_the_papers_numbers_and_the_measured_default():
    assert PAPER.method == "attention"
    assert (PAPER.threshold, PAPER.positive, PAPER.negative, PAPER.blur, PAPER.target) == (0.2, 0.9, 0.6, 2, ())
    assert PAPER.min_area == 0
    assert (CHANGE.method, CHANGE.threshold, CHANGE.target) == ("change", 0.5, ())
