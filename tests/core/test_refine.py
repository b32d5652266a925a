"""What holds for the masks of both methods, at every size, and of the record of a run."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from instdiff_core.evidence import Evidence
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.refine import find_target_words, refine, refine_record, resize_mask
from tests.core.drawn import (
    CHANGE,
    DOG,
    METHODS,
    NOWHERE,
    OBJECTS,
    PAPER,
    SCENE_WORDS,
    at_grid,
    attention,
    blob,
    both,
    changed,
    disc,
    for_both_methods,
    get_record,
    iou,
    joined,
    part_of,
    prompt,
    record_of,
    scene,
    tensor,
    three_pictures,
    words_of,
)


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
    large = resize_mask(mask, (512, 512), settings)
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
    ("name", "near"), [("dogs", "dog"), ("GRAS", "grass"), ("hairy cat", "hairy"), ("run", "runs"), ("zzz", None)]
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
