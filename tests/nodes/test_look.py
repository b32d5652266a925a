"""The picture is looked at before the sampling: the mask of a strong edit is that of the looks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.flow_model import load_flow

from .conftest import PACK

STEPS = 2
STRONG: dict[str, Any] = {"steps": STEPS, "denoise": 0.8}
WEAK: dict[str, Any] = {"steps": STEPS, "denoise": 0.5}


@pytest.fixture(scope="module")
def scene(host: Any) -> tuple[Tensor, Tensor]:
    """A cat's latent, and its exact mask."""
    with torch.inference_mode():
        return host.scene("cat")


@pytest.fixture
def calls(host: Any) -> Iterator[list[int]]:
    """The calls of the embedded model, each by the latents that it was given."""
    made: list[int] = []
    first = host.model.model.diffusion_model.input_blocks[0][0]
    hook = first.register_forward_pre_hook(lambda _, inputs: made.append(len(inputs[0])))
    yield made
    hook.remove()


@pytest.fixture(scope="module")
def strong(host: Any, scene: Any) -> Any:
    """Samples, mask and attention of a strong edit."""
    with torch.inference_mode():
        return host.edit(scene[0], **STRONG)


@pytest.fixture(scope="module")
def looks() -> int:
    return sys.modules[f"{PACK}.instdiff_core.look"].LOOKS


@pytest.mark.one_host
def test_the_mask_of_a_strong_edit_is_about_as_right_as_that_of_a_weaker_one(host, scene, strong):
    weak = host.edit(scene[0], **WEAK)
    assert host.iou(strong[1], scene[1]) > max(0.8, host.iou(weak[1], scene[1]) - 0.05)


def test_a_weak_edit_looks_once_and_its_steps_count_too(host, scene, calls):
    record = host.edit(scene[0], **WEAK)[2]
    assert len(calls) == STEPS + 1
    torch.testing.assert_close(record.evidence(1).propagated, (record.look + record.propagated[0]) / 2)
    assert not torch.equal(record.evidence(2).propagated, record.evidence(1).propagated)


def test_the_picture_is_kept_outside_the_mask_of_a_look(host, scene, strong):
    changed = (strong[0] != scene[0]).any(1)
    whole = torch.nn.functional.interpolate(changed[:, None].float(), scale_factor=8)[:, 0]
    assert host.iou(whole, strong[1] > 0.5) > 0.8


@pytest.mark.one_host
def test_without_a_negative_prediction_the_mask_is_about_as_right(host, scene):
    mask, attention = host.edit(scene[0], cfg=1.0, **STRONG)[1:]
    assert host.iou(mask, scene[1]) > 0.8
    assert attention.look[:, 2].any()


@pytest.mark.one_host
def test_the_mask_does_not_depend_on_strength_steps_or_seed(host, scene, strong):
    other = host.edit(scene[0], steps=1, denoise=1.0, seed=9, sampler_name="dpmpp_sde")
    assert torch.equal(other[1], strong[1])
    assert not torch.equal(other[0], strong[0])


@pytest.mark.one_host
def test_every_picture_of_a_batch_looks_as_alone(host, scene, strong):
    latent = torch.cat([scene[0], host.scene("car", seed=2)[0]])
    mask = host.edit(latent, **STRONG)[1]
    assert host.iou(mask[:1], strong[1] > 0.5) > 0.99


def test_several_edits_look_each_for_itself(host, scene, strong):
    positive = host.nodes.ConditioningCombine().combine(host.prompt("a frog"), host.prompt("a cat on the sand"))[0]
    attention = host.edit(scene[0], positive=positive, **STRONG)[2]
    first, second = attention.edits
    torch.testing.assert_close(first.look, strong[2].look, rtol=1e-3, atol=1e-4)
    assert second.look is not None
    assert not torch.equal(first.look[:, :3], second.look[:, :3])


def test_the_second_part_of_a_split_sampling_goes_on_with_the_look(host, scene, calls, looks):
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": scene[0]})
    sigmas = host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=4, denoise=1.0)
    guider = host.extra(
        "CFGGuider", model=model, positive=host.prompt("a frog"), negative=host.other_prompt(), cfg=5.0
    )  # fmt: skip

    def part(latent: Any, noise: Any, sigmas: Any) -> Any:
        return host.extra(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sigmas=sigmas, latent_image=latent,
            sampler=host.extra("KSamplerSelect", sampler_name="euler"),
        )[0]  # fmt: skip

    high, low = host.extra("SplitSigmas", sigmas=sigmas, step=1)
    noise = host.extra("RandomNoise", noise_seed=3)
    once = part(passed, noise, sigmas)
    calls.clear()
    half = part(passed, noise, high)
    whole = part(half, host.extra("DisableNoise"), low)
    assert len(calls) == looks + 4
    torch.testing.assert_close(whole["samples"], once["samples"], atol=1e-4, rtol=1e-4)
    records = [host.hooks.get_record(attention, each) for each in (once, whole)]
    assert torch.equal(records[0].look, records[1].look)


def in_a_batch_with_a_patch(host: Any, latent: Tensor) -> Any:
    """A model that another node watches."""
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda call, given: call(given["input"], given["timestep"], **given["c"]))
    return host.edit(latent, model=model, **STRONG)[2]


def in_some_steps(host: Any, latent: Tensor) -> Any:
    positive = host.nodes.ConditioningSetTimestepRange().set_range(host.prompt("a frog"), 0.0, 0.9)[0]
    return host.edit(latent, positive=positive, **STRONG)[2]


def with_weights_that_follow_the_steps(host: Any, latent: Tensor) -> Any:
    """A LoRA of the first step alone, in which a look at less noise would count as the second."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(host.lora_weights(), 0.8, 0.0)
    frames = host.extra("CreateHookKeyframe", 0.0, 0.5, host.extra("CreateHookKeyframe", 1.0, 0.0))
    hooks = host.extra("SetHookKeyframes", hooks, frames)
    positive = host.extra("ConditioningSetProperties", host.prompt("a frog"), 1.0, "default", hooks=hooks)
    return host.edit(latent, positive=positive, **STRONG)[2]


def with_a_mask(host: Any, latent: Tensor) -> Any:
    return host.edit(latent, mask=torch.ones(1, 64, 64), **STRONG)[2]


def with_paper(host: Any, latent: Tensor) -> Any:
    return host.edit(latent, settings=host.settings(preset="paper"), **STRONG)[2]


def in_capture(host: Any, latent: Tensor) -> Any:
    return host.capture(latent, **STRONG)[1]


@pytest.mark.parametrize(
    "sample",
    [
        in_a_batch_with_a_patch,
        in_some_steps,
        with_weights_that_follow_the_steps,
        with_a_mask,
        with_paper,
        in_capture,
    ],
    ids=lambda way: way.__name__,
)
def test_no_look_is_taken(host, latent, calls, sample: Callable[..., Any]):
    record = sample(host, latent)
    assert record.look is None
    assert sum(calls) <= 2 * STEPS  # with and without prompt
    assert "before it" not in host.run("InstDiffRefineMask", attention=record)[2]


@pytest.mark.parametrize("region", ["off", "auto"])
def test_what_may_be_contradicted_by_chance_is_looked_at_again(host, region):
    latent, car = host.scene("car", "sand", seed=1)
    positive, settings = host.prompt("a car on the water"), host.settings(region=region)
    mask, attention = host.edit(latent, positive=positive, settings=settings, **STRONG)[1:]
    assert host.iou(mask, ~car) > 0.9
    assert "looked at again" in host.run("InstDiffRefineMask", attention=attention)[2]


def test_a_look_that_fails_leaves_nothing(host, scene, strong):
    first = host.model.model.diffusion_model.input_blocks[0][0]

    def fail(*_: Any) -> None:
        raise RuntimeError("in a look")

    hook = first.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in a look"):
        host.edit(scene[0], **STRONG)
    hook.remove()
    assert torch.equal(host.edit(scene[0], **STRONG)[0], strong[0])


def test_a_run_that_is_stopped_stops_in_a_look(host, scene, calls):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        host.edit(scene[0], **STRONG)
    assert not calls


def test_region_sampling_computes_the_surroundings_after_one_step(host):
    latent = host.scene("cat", seed=7)[0]
    attention = host.edit(latent, settings=host.settings(region="auto"), **STRONG)[2]
    assert "settled after 1 of 2 steps" in host.run("InstDiffRefineMask", attention=attention)[2]


@pytest.fixture
def flow(host: Any) -> dict[str, Any]:
    """The inputs of a sampling by a flow model."""
    model, clip = load_flow(sys.modules[f"{PACK}.nodes.host.mini_model"])
    return {
        "model": model, "positive": host.run("InstDiffEncodeEditPrompt", clip=clip, text="a frog"),
        "negative": clip.encode_from_tokens_scheduled(clip.tokenize("")), "cfg": 3.0,
    }  # fmt: skip


def test_a_flow_model_looks_too_and_warns_of_noise_without_a_look_alone(host, scene, flow, caplog):
    mask, attention = host.edit(scene[0], **flow, **STRONG)[1:]
    assert attention.look is not None
    assert host.iou(mask, scene[1]) > 0.6
    assert "hardly shows" not in caplog.text
    host.capture(scene[0], **flow, **STRONG)
    assert "hardly shows" in caplog.text


@pytest.mark.one_host
def test_without_a_look_the_mask_of_a_sampling_from_noise_alone_is_where_it_edited(host, scene, flow):
    flow["model"].set_model_unet_function_wrapper(lambda call, own: call(own["input"], own["timestep"], **own["c"]))
    own = host.settings(words="frog")
    samples, _, record = host.edit(scene[0], **flow, steps=STEPS, denoise=1.0, settings=own)
    assert record.look is None
    assert math.isinf(record.sigmas[0])
    refine = sys.modules[f"{PACK}.instdiff_core.refine"].refine
    assert torch.equal((samples != scene[0]).any(1), refine(record.evidence(), record.words, own).binary)


@pytest.fixture(scope="module")
def large(host: Any) -> tuple[Tensor, Tensor]:
    """A cat's latent, larger than those that the embedded model was made for, and its exact mask."""
    image, truth = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    image, truth = image.movedim(-1, 1), truth[:, None]
    image, truth = (torch.nn.functional.interpolate(each, (384, 384), mode="bilinear") for each in (image, truth))
    with torch.inference_mode():
        return host.vae.encode(image.movedim(1, -1)), truth[:, 0] > 0.5


@pytest.fixture(scope="module")
def looks_at_large() -> int:
    return sys.modules[f"{PACK}.instdiff_core.look"].LOOKS_IN_DOUBT


@pytest.fixture
def sizes(host: Any) -> Iterator[list[tuple[int, ...]]]:
    """The sizes of the latents that the embedded model was given, call by call."""
    made: list[tuple[int, ...]] = []
    first = host.model.model.diffusion_model.input_blocks[0][0]
    hook = first.register_forward_pre_hook(lambda _, inputs: made.append(tuple(inputs[0].shape[-2:])))
    yield made
    hook.remove()


@pytest.mark.parametrize("region", ["off", pytest.param("auto", marks=pytest.mark.one_host)])
def test_a_picture_larger_than_the_models_own_is_looked_at_in_that_size(host, large, sizes, looks_at_large, region):
    latent, truth = large
    samples, mask, attention = host.edit(latent, settings=host.settings(region=region), **WEAK)
    assert set(sizes[:looks_at_large]) == {(32, 32)}
    assert sizes[looks_at_large] == (48, 48)
    assert host.iou(mask, truth) > 0.8
    host.changed(samples, latent, attention)
    assert "looked at in 256 x 256" in host.run("InstDiffRefineMask", attention=attention)[2]


@pytest.mark.one_host
def test_several_edits_of_a_large_picture_look_each_for_itself(host, large):
    positive = host.nodes.ConditioningCombine().combine(host.prompt("a frog"), host.prompt("a cat on the sand"))[0]
    alone = host.edit(large[0], **WEAK)[2]
    first, second = host.edit(large[0], positive=positive, **WEAK)[2].edits
    torch.testing.assert_close(first.look, alone.look, rtol=1e-3, atol=1e-4)
    assert not torch.equal(first.look[:, :3], second.look[:, :3])


def test_a_control_net_is_in_the_looks_at_a_large_picture_too(
    host, large, sizes, looks_at_large, control_net, make_picture
):
    node = host.nodes.ControlNetApplyAdvanced()
    prompts = host.prompt("a frog"), host.other_prompt()
    positive, negative = node.apply_controlnet(*prompts, control_net, make_picture(1, 384, 384), 0.3, 0.0, 1.0)[:2]
    attention = host.edit(large[0], positive=positive, negative=negative, **WEAK)[2]
    assert set(sizes[:looks_at_large]) == {(32, 32)}
    assert sizes[looks_at_large] == (48, 48)
    assert attention.look.isfinite().all()


def test_an_inpainting_model_gets_a_picture_of_its_size_beside_and_looks_in_full(host, inpainting_model, make_latent):
    latent = make_latent(1, 48, 48)
    attention = host.edit(latent, model=inpainting_model, **WEAK)[2]
    assert attention.look_size is None
