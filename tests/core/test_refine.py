"""The instant mask: the paper's steps by hand, and what must hold for any maps."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from instdiff_core.attention import AttentionRecord
from instdiff_core.refine import PRESETS, MaskSettings, WordRoles, at_size, refine, refine_record, unit_range
from instdiff_core.tokens import PromptWords, Word

GRID = (16, 16)


def prompt(*texts):
    words = tuple(Word(text, (i + 1,)) for i, text in enumerate(texts))
    return PromptWords(words, (0,), (len(texts) + 1,), 77)


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


def tensor(*maps):
    return torch.from_numpy(np.stack(maps)).float()


# ---- the paper's steps, in plain numpy (algorithm.md, 2d to 2h) ----


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
@pytest.mark.parametrize("settings", [PRESETS["paper"], MaskSettings(threshold=0.5, negative=0.3, blur=0)])
def test_the_mask_is_the_papers(grid, size, settings):
    maps = scene(grid)
    soft, binary, index, weights = by_hand(
        maps, size, settings.threshold, negative=settings.negative, blur=settings.blur
    )
    mask = refine(tensor(maps), SCENE_WORDS, settings, size)
    assert mask.roles.index.tolist() == [index]
    assert mask.roles.weights.tolist() == [weights]
    np.testing.assert_allclose(mask.soft[0].numpy(), soft, atol=2e-4)
    clear = np.abs(soft - settings.threshold) > 1e-3
    assert np.array_equal(mask.binary[0].numpy()[clear], binary[clear])
    assert 0 < binary.mean() < 0.5


def test_the_start_tokens_inverse_finds_the_object_and_likeness_gives_the_roles():
    mask = refine(tensor(scene()), SCENE_WORDS, PRESETS["paper"], GRID)
    assert SCENE_WORDS.texts[mask.roles.index] == "dog"
    assert mask.roles.weights.tolist() == [[1, 1, 0, -1]]


def test_three_pixels_by_hand():
    # After 2d: start 1-[.5,.75,1]/1 -> [1,.5,0]; dog [1,.5,0]; grass [0,0,1]: unlike the dog, so -1.
    maps = tensor([[[0.4, 0.6, 0.8]], [[0.1, 0.1, 0.2]], [[0.3, 0.2, 0.1]], [[0.0, 0.0, 0.7]]])
    mask = refine(maps, prompt("dog", "grass"), MaskSettings(blur=0, threshold=0.4), (1, 3))
    assert mask.roles.weights.tolist() == [[1, -1]]
    torch.testing.assert_close(mask.soft, torch.tensor([[[1.0, 0.5, 0.0]]]))
    assert mask.binary.tolist() == [[[True, True, False]]]
    # Otsu: 2/3 at .75 and 1/3 at 0 around .5, of a variance of 1/6.
    torch.testing.assert_close(mask.confidence, torch.tensor([(2 / 3 * 0.25**2 + 1 / 3 * 0.5**2) * 6]))


def test_one_word_makes_the_mask_alone():
    dog = blob(9, 4)
    mask = refine(tensor([1 - 0.5 * blob(3, 3), dog, dog]), prompt("dog"), MaskSettings(blur=0), GRID)
    torch.testing.assert_close(mask.soft[0], tensor(stretched(dog))[0])


# ---- what must hold for any maps ----


def test_brightness_of_a_map_does_not_matter():
    maps = tensor(scene())
    factors = torch.tensor([0.3, 70.0, 0.01, 5.0, 0.2, 40.0]).view(1, -1, 1, 1)
    plain, scaled = (refine(m, SCENE_WORDS, PRESETS["paper"], (64, 64)) for m in (maps, maps * factors))
    torch.testing.assert_close(scaled.soft, plain.soft, atol=1e-4, rtol=0)
    assert torch.equal(scaled.roles.weights, plain.roles.weights)


def test_the_order_of_words_does_not_matter():
    maps, order = tensor(scene()), [2, 0, 3, 1]
    plain = refine(maps, SCENE_WORDS, PRESETS["paper"], (64, 64))
    mixed_words = prompt(*(SCENE_WORDS.texts[i] for i in order))
    mixed = refine(maps[:, [0, 1, *(2 + i for i in order)]], mixed_words, PRESETS["paper"], (64, 64))
    torch.testing.assert_close(mixed.soft, plain.soft, atol=1e-5, rtol=0)
    assert mixed_words.texts[mixed.roles.index] == SCENE_WORDS.texts[plain.roles.index]
    assert torch.equal(mixed.roles.weights, plain.roles.weights[:, order])


def three_pictures():
    maps = scene()
    return tensor(maps, maps[:, ::-1].copy(), np.concatenate([maps[:2], maps[[3, 2, 5, 4]]]))


def test_a_batch_gives_what_its_pictures_give_alone():
    batch = three_pictures()
    together = refine(batch, SCENE_WORDS, PRESETS["paper"], (48, 48))
    for number in range(3):
        alone = refine(batch[number : number + 1], SCENE_WORDS, PRESETS["paper"], (48, 48))
        torch.testing.assert_close(together.soft[number], alone.soft[0], atol=1e-5, rtol=0)
        assert torch.equal(together.roles.index[number], alone.roles.index[0])
        torch.testing.assert_close(together.confidence[number], alone.confidence[0], atol=1e-4, rtol=0)


def test_share_gives_every_picture_the_mask_of_the_mean():
    batch = three_pictures()
    shared = refine(batch, SCENE_WORDS, MaskSettings(share=True), (48, 48))
    mean = refine(batch.mean(0, keepdim=True), SCENE_WORDS, MaskSettings(), (48, 48))
    for number in range(3):
        assert torch.equal(shared.soft[number], mean.soft[0])
        assert torch.equal(shared.binary[number], mean.binary[0])
        assert torch.equal(shared.roles.weights[number], mean.roles.weights[0])
    again = refine(batch, SCENE_WORDS, MaskSettings(share=True), (48, 48), shared.roles)
    assert torch.equal(again.soft, shared.soft)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_work_and_the_mask_is_float32(dtype):
    maps = tensor(scene()).to(dtype)
    mask = refine(maps, SCENE_WORDS, PRESETS["paper"], (64, 64))
    assert mask.soft.dtype == torch.float32
    assert torch.equal(mask.soft, refine(maps.float(), SCENE_WORDS, PRESETS["paper"], (64, 64)).soft)


@pytest.mark.parametrize("settings", [MaskSettings(), MaskSettings(target=("dog",)), MaskSettings(share=True)])
def test_the_device_is_never_waited_for(settings):
    """A tensor on the meta device has no values: to ask for one raises."""
    mask = refine(torch.empty(2, 6, 16, 16, device="meta"), SCENE_WORDS, settings, (64, 64))
    assert mask.binary.device.type == "meta"
    assert mask.binary.shape == (2, 64, 64)


def test_a_higher_threshold_never_grows_the_mask():
    masks = [refine(tensor(scene()), SCENE_WORDS, MaskSettings(threshold=t), (64, 64)) for t in np.linspace(0, 1, 11)]
    for lower, higher in itertools.pairwise(masks):
        assert not (higher.binary & ~lower.binary).any()
    assert masks[1].binary.sum() > masks[9].binary.sum()


def test_more_blur_makes_a_softer_mask():
    sharp, soft = (refine(tensor(scene()), SCENE_WORDS, MaskSettings(blur=b), GRID).soft for b in (0, 8))
    assert soft.diff().abs().max() < sharp.diff().abs().max()


# ---- the user's own word ----


@pytest.mark.parametrize("target", ["grass", "GRASS"])
def test_a_target_word_moves_the_mask_to_it(target):
    found, wanted = (refine(tensor(scene()), SCENE_WORDS, MaskSettings(target=t), GRID) for t in ((), (target,)))
    assert found.binary[0, 5, 5]
    assert not found.binary[0, 12, 11]
    assert wanted.binary[0, 12, 11]
    assert not wanted.binary[0, 5, 5]
    assert SCENE_WORDS.texts[wanted.roles.index] == "grass"


def test_several_target_words_are_all_in_the_mask_and_no_other_word_helps():
    mask = refine(tensor(scene()), SCENE_WORDS, MaskSettings(target=("dog", "grass")), GRID)
    assert mask.binary[0, 5, 5]
    assert mask.binary[0, 12, 11]
    assert mask.roles.weights[0, [1, 3]].tolist() == [1, 1]
    assert mask.roles.weights[0, [0, 2]].max() <= 0


def test_a_target_that_is_not_in_the_prompt_is_named_with_the_words_that_are():
    with pytest.raises(ValueError, match="'cat' is not in the edit prompt: its words are hairy, dog, runs, grass"):
        refine(tensor(scene()), SCENE_WORDS, MaskSettings(target=("dog", "cat")), GRID)


def test_a_prompt_without_words_is_refused():
    with pytest.raises(ValueError, match="the edit prompt holds no words"):
        refine(torch.rand(1, 2, 16, 16), prompt(), MaskSettings(), GRID)


# ---- maps that say nothing ----


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (16, 16)])
@pytest.mark.parametrize("count", [1, 3])
def test_maps_that_say_nothing_give_an_empty_mask(value, size, count):
    words = prompt(*["dog", "grass", "sky"][:count])
    mask = refine(torch.full((2, 2 + count, 16, 16), value), words, MaskSettings(), size)
    assert not mask.soft.any()
    assert not mask.binary.any()
    assert mask.confidence.tolist() == [0, 0]
    assert mask.roles.weights.take_along_dim(mask.roles.index[:, None], 1).tolist() == [[1], [1]]


@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
@pytest.mark.parametrize("dead", [1, 2, 4, 5])
def test_one_map_that_says_nothing_leaves_the_mask_on_the_object(value, dead):
    maps = tensor(scene())
    maps[:, dead] = value
    mask = refine(maps, SCENE_WORDS, MaskSettings(), (37, 51))
    assert torch.isfinite(mask.soft).all()
    assert mask.binary[0, 12, 17]
    assert 0 < mask.binary.float().mean() < 0.5


@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
def test_without_a_start_map_there_is_still_a_mask(value):
    maps = tensor(scene())
    maps[:, 0] = value
    mask = refine(maps, SCENE_WORDS, MaskSettings(), (37, 51))
    assert torch.isfinite(mask.soft).all()
    assert 0 < mask.binary.float().mean() < 0.5


def test_a_dead_picture_does_not_touch_its_neighbour_in_the_batch():
    maps = tensor(scene(), scene())
    maps[1] = float("nan")
    mask = refine(maps, SCENE_WORDS, MaskSettings(), GRID)
    torch.testing.assert_close(mask.soft[:1], refine(maps[:1], SCENE_WORDS, MaskSettings(), GRID).soft)
    assert not mask.soft[1].any()
    assert mask.confidence[0] > mask.confidence[1] == 0


def test_a_word_wholly_inside_what_is_taken_away_leaves_an_empty_mask():
    roles = WordRoles(torch.tensor([0]), torch.tensor([[1.0, -1.0]]))
    same = blob(5, 5)
    mask = refine(tensor([1 - same, same, same, same]), prompt("dog", "grass"), MaskSettings(), (37, 51), roles)
    assert not mask.binary.any()


def test_stretching_reaches_both_ends_and_a_flat_map_is_zero():
    stretched_map, flat = unit_range(torch.stack([torch.rand(5, 5) * 3 - 7, torch.full((5, 5), 0.7)]))
    assert (stretched_map.min(), stretched_map.max()) == (0, 1)
    assert not flat.any()


# ---- roles of the first step, and the record of a run ----


def test_roles_are_kept_when_given():
    first = refine(tensor(scene()), SCENE_WORDS, MaskSettings(), GRID)
    later_maps = scene()
    later_maps[0] = 0.9 - 0.5 * blob(12, 11, 2.5)
    assert SCENE_WORDS.texts[refine(tensor(later_maps), SCENE_WORDS, MaskSettings(), GRID).roles.index] == "grass"
    later = refine(tensor(later_maps), SCENE_WORDS, MaskSettings(), GRID, first.roles)
    assert later.roles is first.roles
    torch.testing.assert_close(later.soft, first.soft)


def record_of(*steps):
    maps = torch.stack([tensor(step) for step in steps]).half()
    return AttentionRecord(maps, SCENE_WORDS, tuple(float(len(steps) - i) for i in range(len(steps))), (32, 32), 8)


def test_a_record_is_refined_at_image_size_with_the_roles_of_its_first_step():
    first, second = scene(), scene()
    second[0] = 0.9 - 0.5 * blob(12, 11, 2.5)
    mask = refine_record(record_of(first, second), MaskSettings())
    assert mask.soft.shape == mask.binary.shape == (1, 256, 256)
    assert SCENE_WORDS.texts[mask.roles.index] == "dog"
    assert mask.binary[0, 88, 88]
    assert torch.equal(mask.binary, mask.soft >= 0.2)


def test_fewer_steps_refine_as_if_the_run_had_ended_there():
    steps = [scene(), np.roll(scene(), 3, axis=2), np.roll(scene(), 6, axis=2)]
    assert torch.equal(
        refine_record(record_of(*steps), MaskSettings(), steps=2).soft,
        refine_record(record_of(*steps[:2]), MaskSettings()).soft,
    )
    assert not torch.equal(
        refine_record(record_of(*steps), MaskSettings(), steps=1).soft,
        refine_record(record_of(*steps), MaskSettings()).soft,
    )


def test_another_size_is_cut_at_the_threshold_again():
    settings = MaskSettings(threshold=0.4)
    mask = at_size(refine(tensor(scene()), SCENE_WORDS, settings, GRID), (40, 72), settings)
    assert mask.soft.shape == (1, 40, 72)
    assert torch.equal(mask.binary, mask.soft >= 0.4)


# ---- settings ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.1}, "threshold must be between 0 and 1, not 1.1"),
        ({"threshold": -0.1}, "threshold must be between 0 and 1, not -0.1"),
        ({"threshold": float("nan")}, "threshold must be between 0 and 1, not nan"),
        ({"positive": 0.5}, r"negative \(0.6\) must be below positive \(0.5\)"),
        ({"positive": 1.5}, "both between -1 and 1"),
        ({"negative": -1.5}, "both between -1 and 1"),
        ({"blur": -1}, "blur must be between 0 and 16, not -1"),
        ({"blur": 17}, "blur must be between 0 and 16, not 17"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_range(values, message):
    with pytest.raises(ValueError, match=message):
        MaskSettings(**values)


def test_settings_cannot_be_changed_behind_a_users_back():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["paper"].threshold = 0.5
    with pytest.raises(TypeError):
        PRESETS["paper"] = MaskSettings(threshold=0.5)


def test_the_paper_preset_has_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.threshold, paper.positive, paper.negative, paper.blur, paper.target) == (0.2, 0.9, 0.6, 2, ())


def test_a_start_token_that_lights_up_on_the_object_misleads_the_paper_but_not_the_default():
    maps = scene()
    maps[0] = 0.4 + 0.5 * blob(5, 5)
    maps[2:] *= np.array([1, 2, 0.1, 0.5])[:, None, None]
    texts = SCENE_WORDS.texts
    index = {name: texts[refine(tensor(maps), SCENE_WORDS, PRESETS[name], (32, 32)).roles.index] for name in PRESETS}
    assert index["default"] == "dog"
    assert index["paper"] != "dog"
