"""Sampling of transformers: as without us, with masks, under every guider, in every size."""

from __future__ import annotations

import copy
import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import Tensor


def check_record(attention: Any, steps: int = 2) -> None:
    assert attention.words.texts == ("a", "green", "frog")
    assert len(attention.sigmas) == steps
    assert attention.maps.isfinite().all()
    assert attention.propagated.isfinite().all()
    assert attention.maps[:, :, 2:].amin() > 0


def named(host: Any) -> Any:
    """Settings by which random weights too give a mask that is neither nothing nor all: the word's map, cut high."""
    return host.settings(preset="paper", words="frog", threshold=0.6)


def check_mask_acts(samples: Tensor, latent: Tensor) -> None:
    """Part of the picture is the source's bit for bit, and part is not."""
    assert samples.isfinite().all()
    assert 0 < (samples != latent).flatten(2).any(1).float().mean() < 1


@pytest.mark.parametrize("cfg", [pytest.param(1.0, marks=pytest.mark.one_host), 4.0])
@pytest.mark.parametrize("negative", [13, 9], ids=["equal_lengths", "other_lengths"])
def test_capturing_samples_as_k_sampler_does(host, family, cfg, negative):
    latent = family.latent(10, 14)
    inputs = family.inputs(cfg=cfg, negative=family.conditioning(2, negative))
    plain = host.k_sampler(latent, **inputs)
    samples, attention = host.capture(latent, **inputs)
    assert (plain != latent).any()
    assert torch.equal(samples, plain)
    check_record(attention)


@pytest.mark.parametrize(
    "size", [(9, 13), *(pytest.param(size, marks=pytest.mark.one_host) for size in [(4, 30), (5, 5)])], ids=str
)
def test_pictures_of_odd_sizes_are_masked(host, family, size):
    latent = family.latent(*size)
    samples, mask, attention = host.edit(latent, settings=named(host), **family.inputs(cfg=4.0))
    check_record(attention)
    check_mask_acts(samples, latent)
    pixels = 16 if family.name == "flux2" else 8
    assert mask.shape == (1, size[0] * pixels, size[1] * pixels)


def test_outside_a_mask_the_picture_is_kept_bit_for_bit(host, family):
    latent, half = family.latent(8, 12), torch.zeros(1, 64, 96)
    half[..., :48] = 1
    samples, _, _ = host.edit(latent, mask=half, **family.inputs(cfg=4.0))
    assert samples.shape == latent.shape
    assert torch.equal(samples[..., 6:], latent[..., 6:])
    assert (samples != latent)[..., :6].any(1).all()


def test_batches_have_a_mask_each(host, family):
    latent = family.latent(8, 12, batch=2)
    samples, mask, attention = host.edit(latent, settings=named(host), **family.inputs(cfg=4.0))
    assert attention.maps.shape[1] == len(mask) == 2
    check_mask_acts(samples, latent)


@pytest.mark.one_host
def test_nothing_is_left_in_the_model(host, family):
    latent = family.latent(8, 12)
    before = copy.deepcopy(family.model.model_options)
    plain = host.k_sampler(latent, **family.inputs())
    host.edit(latent, **family.inputs())
    assert family.model.model_options == before
    assert torch.equal(host.k_sampler(latent, **family.inputs()), plain)


def test_another_nodes_attention_is_kept_and_read_through(host, family):
    """As packs for other attention kernels put it in, before or after ours."""
    latent, called = family.latent(8, 12), []

    def scaled(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        called.append(len(q))
        return func(q, k, v * 0.5, *args, **kwargs)

    model = family.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = scaled
    inputs = family.inputs(model=model)
    plain = host.k_sampler(latent, **inputs)
    assert called
    assert not torch.equal(plain, host.k_sampler(latent, **family.inputs()))
    samples, attention = host.capture(latent, **inputs)
    assert torch.equal(samples, plain)
    check_record(attention)


@pytest.mark.parametrize(
    ("dtype", "cast"),
    [
        pytest.param(torch.float16, None, marks=pytest.mark.one_host),
        (torch.bfloat16, None),
        pytest.param(torch.float8_e4m3fn, torch.bfloat16, marks=pytest.mark.one_host),
    ],
    ids=["fp16", "bf16", "fp8"],
)
def test_weights_of_other_types(host, joint_family, family, dtype, cast):
    family = joint_family(family.name, dtype, cast)
    latent = family.latent(8, 12)
    plain = host.k_sampler(latent, **family.inputs())
    samples, attention = host.capture(latent, **family.inputs())
    assert plain.isfinite().all()
    assert torch.equal(samples, plain)
    check_record(attention)
    check_mask_acts(host.edit(latent, settings=named(host), **family.inputs())[0], latent)


# ---- guiders ----


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider", "DualCFGGuider"])
def test_every_guider(host, family, guider):
    latent, inputs = family.latent(8, 12), family.inputs()
    positive, negative = inputs["positive"], inputs["negative"]
    prompts = {
        "BasicGuider": {"conditioning": positive},
        "CFGGuider": {"positive": positive, "negative": negative, "cfg": 3.0},
        "DualCFGGuider": {"cond1": positive, "cond2": family.conditioning(5), "negative": negative,
                          "cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": "regular"},
    }[guider]  # fmt: skip

    def sample(model: Any, latent: Any) -> Any:
        sigmas = host.extra("BasicScheduler", model=model, scheduler="normal", steps=2, denoise=0.6)
        return host.extra(
            "SamplerCustomAdvanced", noise=host.extra("RandomNoise", noise_seed=3),
            guider=host.extra(guider, model=model, **prompts), sigmas=sigmas, latent_image=latent,
            sampler=host.extra("KSamplerSelect", sampler_name="euler"),
        )[0]  # fmt: skip

    model, passed, attention = host.run(
        "InstDiffMaskGuidance", model=family.model, latent={"samples": latent}, settings=named(host)
    )
    masked = sample(model, passed)
    check_mask_acts(masked["samples"], latent)
    check_record(host.hooks.get_record(attention, masked))
    assert host.hooks.get_record(attention, masked).propagated[:, :, 2].any()
    whole = torch.ones(1, 64, 96)
    model, passed, _ = host.run("InstDiffMaskGuidance", model=family.model, latent={"samples": latent}, mask=whole)
    assert torch.equal(sample(model, passed)["samples"], sample(family.model, {"samples": latent})["samples"])


@pytest.mark.one_host
def test_without_a_negative_prompt_the_empty_prompt_is_predicted_in_two_steps(host, family):
    latent = family.latent(8, 12)
    attention = host.capture(latent, **family.inputs(cfg=1.0, steps=4, negative=family.conditioning(2)))[1]
    assert [bool(step[:, 2].any()) for step in attention.propagated] == [True, True, False, False]


# ---- noise ----


@pytest.mark.one_host
def test_steps_count_by_noise_to_signal(host, family):
    sampling = family.model.get_model_object("model_sampling")
    attention = host.capture(family.latent(8, 12), **family.inputs(steps=3))[1]
    ratios = torch.tensor(attention.sigmas)
    assert (ratios.diff() < 0).all()
    sigma = ratios / (1 + ratios)
    assert sigma[0] <= float(sampling.sigma_max)


def test_a_latent_that_came_noisy_goes_on_with_its_noise(host, family):
    """KSampler (Advanced) in two halves: outside the mask the second half keeps the picture."""
    latent, half = family.latent(8, 12), torch.zeros(1, 64, 96)
    half[..., :48] = 1
    inputs = family.inputs()
    model, passed, _ = host.run("InstDiffMaskGuidance", model=family.model, latent={"samples": latent}, mask=half)
    common = {
        "noise_seed": 3, "steps": 6, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": inputs["positive"], "negative": inputs["negative"],
    }  # fmt: skip
    advanced = host.nodes.KSamplerAdvanced()
    first = advanced.sample(
        family.model, "enable", latent_image=passed, start_at_step=3, end_at_step=4,
        return_with_leftover_noise="enable", **common,
    )[0]  # fmt: skip
    second = advanced.sample(
        model, "disable", latent_image=first, start_at_step=4, end_at_step=6,
        return_with_leftover_noise="disable", **common,
    )[0]["samples"]  # fmt: skip
    assert torch.equal(second[..., 6:], latent[..., 6:])
    assert (second != latent)[..., :6].any(1).all()


# ---- the other nodes ----


@pytest.mark.one_host
def test_the_other_nodes_take_what_was_recorded(host, family):
    latent = family.latent(8, 12)
    attention = host.edit(latent, **family.inputs(cfg=4.0))[2]
    mask, soft, report, _ = host.run("InstDiffRefineMask", attention=attention)
    assert mask.shape == soft.shape == (1, 128, 192) if family.name == "flux2" else (1, 64, 96)
    assert "frog" in report
    assert host.run("InstDiffRefineMask", attention=attention, words="frog")[1].isfinite().all()
    assert host.run("InstDiffAttentionHeatmaps", attention=attention).isfinite().all()


def test_a_mask_has_the_size_of_the_picture_where_a_latent_pixel_is_16_of_its_own(host, joint_family):
    family = joint_family("wan_2_2")
    mask = host.edit(family.latent(4, 6), **family.inputs(steps=1))[1]
    assert mask.shape == (1, 64, 96)


@pytest.mark.one_host
def test_edit_guard_puts_back_what_the_instant_mask_says(host, family):
    latent, inputs = family.latent(8, 12), family.inputs(cfg=4.0)
    model, passed, attention = host.run(
        "InstDiffMaskGuidance", model=family.model, latent={"samples": latent}, settings=named(host)
    )
    sampled = {"samples": host.k_sampler(passed["samples"], **inputs | {"model": model})}
    mask, *_ = host.run("InstDiffRefineMask", attention=attention, sampled=sampled, settings=named(host))
    generator = torch.Generator().manual_seed(1)
    layers = [torch.rand(1, 3, side, side, generator=generator) for side in (6, 20, 60)]
    layers = [torch.nn.functional.interpolate(layer, mask.shape[1:], mode="bicubic") for layer in layers]
    original = torch.stack(layers).mean(0).movedim(1, -1).clamp(0, 1)
    edited = torch.where(mask[..., None] > 0.5, original.flip(1), original) * 0.95
    picture, area, _, report = host.run(
        "InstDiffEditGuard", edited=edited, original=original, mask=mask, grow=0.0, feather=0.0
    )
    assert "refused" not in report
    assert torch.equal(area, mask)
    assert torch.equal(picture[area == 0], original[area == 0])
    assert (picture != original).any()


def test_diffedit_masks_by_velocity(host, family):
    latent = family.latent(8, 12)
    mask, soft = host.run(
        "InstDiffDiffEditMask", model=family.model, source=family.conditioning(2), target=family.positive(),
        latent_image={"samples": latent}, draws=2, denoise=0.5,
    )  # fmt: skip
    assert mask.shape == (1, 128, 192) if family.name == "flux2" else (1, 64, 96)
    assert 0 < soft.mean() < 1


# ---- when something stops it ----


def test_an_interrupted_sampling_leaves_nothing_behind(host, family):
    import comfy.model_management

    latent = family.latent(8, 12)
    plain = host.k_sampler(latent, **family.inputs())
    model, steps = family.model.clone(), []

    def interrupt(args: Any) -> Tensor:
        steps.append(args["sigma"])
        raise comfy.model_management.InterruptProcessingException

    model.set_model_sampler_post_cfg_function(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        host.edit(latent, **family.inputs(model=model))
    assert len(steps) == 1
    assert torch.equal(host.k_sampler(latent, **family.inputs()), plain)
    check_record(host.capture(latent, **family.inputs())[1])


@pytest.mark.one_host
def test_the_published_method_is_refused_without_a_start_token(host, joint_family):
    family = joint_family("flux")
    latent, paper = family.latent(8, 12), host.settings(preset="paper")
    with pytest.raises(ValueError, match=r"start token.*'default'"):
        host.edit(latent, settings=paper, **family.inputs())
    attention = host.capture(latent, **family.inputs())[1]
    with pytest.raises(ValueError, match=r"start token.*'default'"):
        host.run("InstDiffRefineMask", attention=attention, settings=paper)
    named = host.settings(preset="paper", words="frog")
    assert host.run("InstDiffRefineMask", attention=attention, settings=named)[0].any()


def test_a_large_picture_is_told_by_the_size_that_the_model_was_made_for(host, joint_family, monkeypatch, caplog):
    family = joint_family("flux")
    notices = sys.modules[host.hooks.__name__ + ".notices"]
    notices.warn_of_size(family.model, torch.empty(1, 16, 128, 128, device="meta"))
    assert not caplog.text
    notices.warn_of_size(family.model, torch.empty(1, 16, 256, 256, device="meta"))
    assert "about 1024 x 1024" in caplog.text


@pytest.mark.parametrize(("denoise", "told"), [(0.2, False), (0.5, True)])
def test_too_much_noise_is_told_with_the_denoise_to_set(host, joint_family, denoise, told, caplog):
    """Flux's shift makes of a denoise of 0.5 the noise of Stable Diffusion at 0.7."""
    family = joint_family("flux")
    host.capture(family.latent(8, 12), **family.inputs(denoise=denoise, steps=5))
    assert ("set denoise to about 0.32" in caplog.text) == told


def test_u_nets_are_not_told_of_noise(host, latent, caplog):
    host.capture(latent, denoise=0.9)
    assert "set denoise" not in caplog.text


@pytest.mark.one_host
def test_region_sampling_computes_the_whole_picture(host, joint_family):
    family = joint_family("flux")
    latent, mask = family.latent(16, 16), torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    off, auto = (
        host.run(
            "InstDiffMaskedSampler",
            **family.inputs(latent_image={"samples": latent}, mask=mask, settings=host.settings(region=region)),
        )
        for region in ("off", "auto")
    )
    assert torch.equal(auto[0]["samples"], off[0]["samples"])
    report = host.run("InstDiffRefineMask", attention=auto[2])[2]
    assert "places what it sees in the whole picture" in report


def test_two_edits_have_a_mask_each(host, family):
    first, second = family.positive(), family.positive()
    context, options = second[0]
    key = host.hooks.PROMPT
    other = dataclasses.replace(options[key].words, words=options[key].words.words[1:])
    second = [[context.flip(1), options | {key: dataclasses.replace(options[key], words=other)}]]
    latent = family.latent(8, 12)
    positive = host.nodes.ConditioningCombine().combine(first, second)[0]
    inputs = family.inputs(latent_image={"samples": latent}, positive=positive, cfg=4.0)
    samples, mask, attention, of_edits = host.run("InstDiffMaskedSampler", **host.sampling(latent, **inputs))
    check_mask_acts(samples["samples"], latent)
    assert [edit.words.texts for edit in attention.edits] == [("a", "green", "frog"), ("green", "frog")]
    assert [len(edit.maps) for edit in attention.edits] == [2, 2]
    assert torch.equal(of_edits.amax(0), mask[0])
    assert of_edits.sum(0).max() == 1
