"""DiffEdit's mask: its arithmetic, and the same mask as diffusers' own on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, StableDiffusionDiffEditPipeline

from instdiff_core.diffedit import measure_disagreement, threshold_difference
from instdiff_core.metrics import iou
from instdiff_core.mini.scenes import compose
from instdiff_core.options import DiffEditOptions
from instdiff_core.pipeline import EditModel, load_mini
from instdiff_core.pipeline import diffedit as engine

SCENES = [("cat", "dog", "grass"), ("dog", "cat", "snow")]
SEEDS = [3, 4]
FEW: dict[str, Any] = {"options": DiffEditOptions(3), "seeds": SEEDS}
DIFFUSERS_STRENGTH = 481 / 999
"""Of the timestep that diffusers takes, the middle one of 50."""


@pytest.fixture(scope="module")
def model() -> EditModel:
    return load_mini()


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures with the masks of their objects."""
    drawn = [compose(np.random.default_rng(5), [thing], background) for thing, _, background in SCENES]
    return [(picture, masks[0]) for picture, masks in drawn]


@pytest.fixture(scope="module")
def given(scenes: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Pictures, source prompts and target prompts."""
    pictures = [picture for picture, _ in scenes]
    return pictures, [f"a {thing}" for thing, _, _ in SCENES], [f"a {other}" for _, other, _ in SCENES]


def test_a_ratio_times_the_mean_is_full_and_more_is_no_more() -> None:
    difference = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 6.0]]])  # mean 1.5
    soft, binary = threshold_difference(difference, (2, 3), DiffEditOptions(ratio=2.0))
    assert torch.equal(soft, torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]]))
    assert torch.equal(binary, soft.bool())
    assert threshold_difference(difference, (2, 3), DiffEditOptions(ratio=4.0))[0][0, 1].tolist() == [0.0, 0.5, 1.0]


def test_exactly_at_the_threshold_is_outside_as_in_diffusers() -> None:
    difference = torch.tensor([[[0.0, 1.0], [2.0, 1.0]]])  # mean 1
    assert threshold_difference(difference, (2, 2), DiffEditOptions(ratio=2.0))[1].sum() == 1


def test_the_unit_of_the_difference_plays_no_part() -> None:
    difference = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    soft, binary = threshold_difference(difference, (32, 32))
    scaled_soft, scaled = threshold_difference(difference * 64, (32, 32))
    torch.testing.assert_close(scaled_soft, soft)
    assert torch.equal(scaled, binary)


def test_each_picture_of_a_batch_has_its_own_mean() -> None:
    difference = (
        torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 50.0])[:, None, None]
    )
    together = threshold_difference(difference, (8, 8))[1]
    alone = torch.cat([threshold_difference(each[None], (8, 8))[1] for each in difference])
    assert torch.equal(together, alone)
    assert together.flatten(1).any(1).all()


def test_no_difference_gives_an_empty_mask() -> None:
    soft, binary = threshold_difference(torch.zeros(1, 4, 4), (32, 32))
    assert not soft.any()
    assert not binary.any()


def test_the_disagreement_is_the_mean_over_channels_whatever_the_float_type() -> None:
    target, source = torch.zeros(1, 4, 2, 2), torch.tensor([1.0, -1.0, 2.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert torch.equal(measure_disagreement(target.bfloat16(), source.bfloat16()), torch.ones(1, 2, 2))


@pytest.mark.parametrize("guidance", [3.0, 7.5])
def test_the_mask_is_the_one_of_diffusers_whatever_its_guidance(
    model: EditModel, given: tuple[list[np.ndarray], list[str], list[str]], guidance: float
) -> None:
    inverse = DDIMInverseScheduler.from_config(model.scheduler.config)
    pipe = StableDiffusionDiffEditPipeline(
        model.vae, model.text_encoder, model.tokenizer, model.unet, model.scheduler, None, None, inverse,
        requires_safety_checker=False,
    )  # fmt: skip
    options = DiffEditOptions(3, DIFFUSERS_STRENGTH)
    difference = engine.measure_difference(model, *given, seeds=SEEDS, options=options)
    height, width = difference.shape[-2:]
    _, ours = threshold_difference(difference, (height, width))
    latents = model.encode(given[0])
    for number, (_, source, target) in enumerate(zip(*given, strict=True)):
        theirs = pipe.generate_mask(
            latents[number : number + 1], target, source_prompt=source, num_maps_per_mask=3,
            guidance_scale=guidance, generator=torch.Generator().manual_seed(SEEDS[number]),
        )  # fmt: skip
        assert 0 < theirs.mean() < 0.5
        assert iou(ours[number], torch.from_numpy(theirs[0].astype(bool))) > 0.99


def test_the_mask_finds_the_object_at_the_size_of_the_picture(
    model: EditModel, scenes: list[tuple[np.ndarray, np.ndarray]], given: tuple[list[np.ndarray], list[str], list[str]]
) -> None:
    for mask, (_, truth) in zip(engine.find_masks(model, *given, **FEW), scenes, strict=True):
        assert mask.dtype == bool
        assert iou(torch.from_numpy(mask), torch.from_numpy(truth)) > 0.5


def test_pictures_side_by_side_get_the_masks_that_they_get_alone(
    model: EditModel, given: tuple[list[np.ndarray], list[str], list[str]]
) -> None:
    together = engine.measure_difference(model, *given, **FEW)
    pictures, sources, targets = given[0][1:], given[1][1:], given[2][1:]
    second = engine.measure_difference(model, pictures, sources, targets, **FEW | {"seeds": SEEDS[1:]})
    torch.testing.assert_close(together[1:], second, atol=1e-4, rtol=1e-3)


def test_any_size_of_picture_gets_a_mask_of_its_size(model: EditModel) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    [mask] = engine.find_masks(model, [noise], ["a cat"], ["a dog"], seeds=[1], options=DiffEditOptions(1))
    assert mask.shape == (75, 101)


def test_a_unet_in_bfloat16_finds_nearly_the_same(
    model: EditModel, given: tuple[list[np.ndarray], list[str], list[str]]
) -> None:
    half = replace(load_mini(), unet=load_mini().unet.bfloat16())
    masks, others = (engine.find_masks(each, *given, **FEW) for each in (model, half))
    for mask, other in zip(masks, others, strict=True):
        assert iou(torch.from_numpy(mask), torch.from_numpy(other)) > 0.9
