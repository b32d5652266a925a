"""Several edits of a picture in one run, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from instdiff_core.metrics import iou
from instdiff_core.mini.scenes import compose
from instdiff_core.options import FINISH, PRESETS, FinishOptions, MaskSettings, SamplingOptions
from instdiff_core.pipeline import EditModel, EditPrompt, edit, edit_batch, finish
from instdiff_core.pipeline.own_mask import OwnMaskSession
from tests.bench.scenes import two_edits
from tests.core.edited import FEW, grown


@pytest.fixture(scope="module")
def two_things() -> np.ndarray:
    return compose(np.random.default_rng(8), ["cat", "tree"], "grass", size=128)[0]


def test_each_of_several_edits_finds_its_own_thing(model: EditModel) -> None:
    picture, truths = compose(np.random.default_rng(4), ["cat", "tree"], "grass")
    result = edit(model, picture, ["a frog and a tree", "a cat and a mushroom"], **FEW)
    scores = [float(iou(mask.binary[0], torch.tensor(truth))) for mask, truth in zip(result.masks, truths, strict=True)]
    assert min(scores) > 0.6


def test_what_one_edit_paints_does_not_mislead_the_mask_of_another(model: EditModel) -> None:
    (scene,) = two_edits(1, 9008)
    options: dict[str, Any] = {"sampling": SamplingOptions(4), "finishing": FinishOptions(strength=0)}
    masks = edit(model, scene.picture, scene.prompts, seed=9008, **options).masks
    for mask, of_edit in zip(masks, scene.edits, strict=True):
        assert of_edit.truth is not None
        assert float(iou(mask.binary[0], torch.tensor(of_edit.truth))) > 0.8


def test_several_edits_have_a_mask_each_and_leave_the_rest_bit_for_bit(
    model: EditModel, two_things: np.ndarray
) -> None:
    rows: list[int] = []
    unets = [unet for unet in (model.unet, model.inpainting) if unet is not None]
    hooks = [unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0]))) for unet in unets]
    try:
        prompts = [
            EditPrompt(text, MaskSettings("change", threshold=0.7, target=(text.split()[1],)))
            for text in ("a frog and a tree", "a mushroom and a cat")
        ]
        result = edit(model, two_things, prompts, **FEW)
    finally:
        for hook in hooks:
            hook.remove()
    first, second = (mask.binary[0].numpy() for mask in result.masks)
    both = result.mask.binary[0].numpy()
    # without prompt, and one for each edit, in the look and the sampling; then each is finished
    assert rows == [3] * 3 + [2] * 4
    assert first.any()
    assert second.any()
    assert not (first & second).any()
    assert np.array_equal(first | second, both)
    untouched = ~grown(both, FINISH.grow)
    assert untouched.any()
    assert np.array_equal(result.picture[untouched], two_things[untouched])
    assert [record.words.texts[-1] for record in result.record.edits] == ["tree", "cat"]
    kept = (result.latent == model.encode([two_things])).all(1)
    assert 0 < kept.float().mean() < 1


def test_facts_of_several_edits_say_what_each_rests_on(model: EditModel, two_things: np.ndarray) -> None:
    facts = json.loads(json.dumps(edit(model, two_things, ["a frog", "a red car"], **FEW).facts))
    assert [[word["word"] for word in of_edit["words"]] for of_edit in facts["edits"]] == [
        ["a", "frog"],
        ["a", "red", "car"],
    ]
    assert facts["mask_area"] == pytest.approx(sum(of_edit["mask_area"] for of_edit in facts["edits"]), abs=1e-5)


def test_in_masks_of_ones_own_each_part_is_what_its_prompt_alone_makes_of_it(
    model: EditModel, picture: np.ndarray
) -> None:
    """To what rounding does in a larger batch: in one step the two halves do not see each other's prompts."""
    left = np.zeros((128, 128), bool)
    left[:, :64] = True
    whole, prompts = np.ones((128, 128), bool), ["a frog", "a red car"]
    height, width = (side // model.scale for side in (128, 128))

    def sampled(masks: dict[str, np.ndarray]) -> torch.Tensor:
        def new_session(number: int, words: Any, *session: Any) -> OwnMaskSession:
            return OwnMaskSession(masks[" ".join(words.texts)], (height, width), model.device, words, *session)

        options: dict[str, Any] = {"sampling": SamplingOptions(1), "finishing": FinishOptions(1, strength=0)}
        return edit(model, picture, list(masks), new_session=new_session, **options).latent

    together = sampled({prompts[0]: left, prompts[1]: ~left})
    frog, car = (sampled({prompt: whole}) for prompt in prompts)
    middle = width // 2
    torch.testing.assert_close(together[..., :middle], frog[..., :middle], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(together[..., middle:], car[..., middle:], atol=1e-3, rtol=1e-3)
    assert (frog - car).abs().max() > 0.1


def test_an_edit_with_settings_of_its_own_leaves_the_others_as_they_are(
    model: EditModel, two_things: np.ndarray
) -> None:
    high = replace(PRESETS["default"], threshold=0.9)
    loose, tight = (
        edit(model, two_things, ["a frog and a tree", EditPrompt("a red car", own)], **FEW) for own in (None, high)
    )
    assert tight.masks[1].binary.sum() < loose.masks[1].binary.sum()
    assert tight.masks[0].binary.sum() >= loose.masks[0].binary.sum()
    assert [record.settings for record in tight.record.edits] == [None, high]


def test_pictures_side_by_side_have_several_edits_each(model: EditModel, two_things: np.ndarray) -> None:
    prompts = [["a frog", "a red car"], ["a dog", "an apple on the grass"]]
    edits = edit_batch(model, [two_things, two_things[::-1].copy()], prompts, seeds=[1, 2], **FEW)
    alone = edit(model, two_things, prompts[0], seed=1, **FEW)
    assert [len(each.masks) for each in edits] == [2, 2]
    assert [record.words.texts for record in edits[1].record.edits] == [
        ("a", "dog"),
        ("an", "apple", "on", "the", "grass"),
    ]
    assert (np.abs(alone.picture.astype(int) - edits[0].picture) > 8).mean() < 0.02


def test_noise_samples_share_the_mask_of_each_edit(model: EditModel, two_things: np.ndarray) -> None:
    options = FEW | {"sampling": SamplingOptions(1, noise_samples=3)}
    result = edit(model, two_things, ["a frog", "a red car"], **options)
    assert [record.maps.shape[1:3] for record in result.record.edits] == [(3, 2 + 2), (3, 2 + 3)]
    assert [mask.soft.shape for mask in result.masks] == [(1, 128, 128)] * 2
    assert len(result.latent) == 1


def test_several_edits_that_do_not_go_together_are_refused(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="as many edit prompts"):
        edit_batch(model, [picture] * 2, ["a dog", ["a dog", "a frog"]], seeds=[0, 0])
    with pytest.raises(ValueError, match="needs an edit prompt"):
        edit(model, picture, [])
    with pytest.raises(ValueError, match="no words"):
        edit(model, picture, ["a dog", ""])
    with pytest.raises(ValueError, match="'tree' is not in the edit prompt"):
        edit(model, picture, ["a dog", "a frog"], settings=MaskSettings(target=("frog", "tree")))
    with pytest.raises(ValueError, match="2 edit prompts and 1 masks"):
        finish(model, picture, np.ones((128, 128), bool), latent, ["a dog", "a frog"])
