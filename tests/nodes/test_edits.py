"""Several edits in one sampling: each with its own mask and its own prompt, and the rest of the picture as it was."""

from __future__ import annotations

import sys

import pytest
import torch


def combined(host, *texts, **own):
    """Encode Edit Prompt for each text, joined by Conditioning (Combine); `own` are inputs of the last one."""
    prompts = [host.prompt(text) for text in texts[:-1]]
    prompts.append(host.run("InstDiffEncodeEditPrompt", clip=host.clip, text=texts[-1], **own))
    whole = prompts[0]
    for each in prompts[1:]:
        whole = host.nodes.ConditioningCombine().combine(whole, each)[0]
    return whole


@pytest.fixture
def two(host):
    return combined(host, "a frog", "a red car")


def sample(host, latent, positive, **changes):
    """Masked Sampler in few steps: samples, mask, attention and the masks of the edits."""
    return host.run("InstDiffMaskedSampler", **host.sampling(latent, positive=positive, steps=3, **changes))


def check(host, latent, samples, attention, of_edits, steps=3):
    """Every edit was seen in every step, masks do not overlap, and outside of them the source is there bit for bit."""
    assert len(attention.edits) == 2
    assert [len(edit.maps) for edit in attention.edits] == [steps, steps]
    masks = of_edits.view(2, len(latent), *of_edits.shape[1:])
    assert masks.sum(0).max() == 1
    refine, options = (sys.modules[f"{host.pack.__name__}.instdiff_core.{name}"] for name in ("refine", "options"))
    changed = (samples["samples"] != latent).any(1)
    found = []
    for edit in attention.edits:
        mask = refine.refine(edit.evidence(), edit.words, options.PRESETS["default"]).binary
        # one that was found after the sampling may hold what was kept in it
        found.append(mask if edit.rest_ratio is None else mask & changed)
    assert samples["samples"].isfinite().all()
    assert 0 < changed.float().mean() < 1
    assert (changed == found[0] | found[1]).float().mean() > 0.95


def test_each_edit_has_its_mask_and_its_words(host, latent, two):
    samples, mask, attention, of_edits = sample(host, latent, two)
    check(host, latent, samples, attention, of_edits)
    assert [edit.words.texts for edit in attention.edits] == [("a", "frog"), ("a", "red", "car")]
    assert torch.equal(of_edits.amax(0, keepdim=True), mask)


def test_one_edit_gives_one_mask_which_is_its_mask(host, latent):
    _, mask, attention, of_edits = sample(host, latent, host.prompt("a frog"))
    assert torch.equal(mask, of_edits)
    assert attention.edits == (attention,)


@pytest.mark.one_host
def test_in_masks_of_ones_own_each_part_is_what_its_prompt_alone_makes_of_it(host, latent):
    """To what rounding does in a larger batch: the two halves do not see each other's prompts."""
    left = torch.zeros(1, 16, 16)
    left[:, :, :8] = 1
    whole = host.nodes.ConditioningCombine().combine(
        host.run("InstDiffEncodeEditPrompt", clip=host.clip, text="a frog", mask=left),
        host.run("InstDiffEncodeEditPrompt", clip=host.clip, text="a red car", mask=1 - left),
    )[0]
    changes = {"steps": 1, "cfg": 4.0}
    samples, mask, _, of_edits = host.run("InstDiffMaskedSampler", **host.sampling(latent, positive=whole, **changes))
    assert mask.all()
    assert torch.equal(of_edits[:1], torch.nn.functional.interpolate(left[None], (128, 128))[0])
    frog, car = (host.k_sampler(latent, positive=host.prompt(text), **changes) for text in ("a frog", "a red car"))
    torch.testing.assert_close(samples["samples"][..., :8], frog[..., :8], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(samples["samples"][..., 8:], car[..., 8:], atol=1e-3, rtol=1e-3)
    assert (frog - car).abs().max() > 0.1


def test_a_mask_of_the_sampler_bounds_every_edit_and_one_of_an_edit_is_its_own(host, latent, two):
    half = torch.zeros(1, 16, 16)
    half[:, :8] = 1
    _, _, _, of_edits = sample(host, latent, two, mask=half)
    assert not of_edits[:, 64:].any()
    own = combined(host, "a frog", "a red car", mask=half)
    _, _, _, of_edits = sample(host, latent, own)
    assert of_edits[1, :64].all()
    assert not of_edits[1, 64:].any()


@pytest.mark.one_host
def test_settings_of_an_edit_are_its_own_and_words_count_where_they_are(host, latent):
    high = host.settings(threshold=0.9)
    report = host.run(
        "InstDiffRefineMask",
        attention=sample(host, latent, combined(host, "a frog", "a red car", settings=high))[2],
        settings=host.settings(words="frog, red car"),
    )[2]
    assert report.startswith("edit 1, 'a frog':\n")
    assert "edit 2, 'a red car':\n" in report
    with pytest.raises(ValueError, match="'tree' is not in the edit prompt"):
        sample(host, latent, combined(host, "a frog", "a car"), settings=host.settings(words="frog, tree"))


@pytest.mark.one_host
def test_refine_and_heatmaps_show_each_edit(host, latent, two):
    _, mask, attention, of_edits = sample(host, latent, two)
    every = host.run("InstDiffRefineMask", attention=attention)
    assert torch.equal(every[0], mask)
    assert torch.equal(every[3], of_edits)
    for number in (1, 2):
        shown = host.run("InstDiffRefineMask", attention=attention, edit=number)
        assert torch.equal(shown[0][0], of_edits[number - 1])
    counts = [len(host.run("InstDiffAttentionHeatmaps", attention=attention, edit=number)) for number in (0, 1, 2)]
    assert counts == [5, 2, 3]
    with pytest.raises(ValueError, match="no edit 3: the sampling had 2"):
        host.run("InstDiffRefineMask", attention=attention, edit=3)


def test_the_finish_paints_each_mask_with_its_prompt_and_nothing_else(host, make_picture, two):
    image, masks = make_picture(1, 128, 128), torch.zeros(2, 128, 128)
    masks[0, 20:60, 20:60] = masks[1, 20:60, 88:120] = 1
    inputs = {"model": host.model, "negative": host.other_prompt(), "vae": host.vae, "image": image, "steps": 2}
    both, area = host.run("InstDiffInpaintFinish", positive=two, mask=masks, **inputs)
    assert torch.equal(both[area == 0], image[area == 0])
    first = host.run("InstDiffInpaintFinish", positive=host.prompt("a frog"), mask=masks[:1], **inputs)[0]
    assert torch.equal(both[:, 20:60, 20:60], first[:, 20:60, 20:60])
    with pytest.raises(ValueError, match="combines 2 edit prompts, and mask has 1 masks for 1 pictures"):
        host.run("InstDiffInpaintFinish", positive=two, mask=masks[:1], **inputs)


def test_capture_attention_and_find_in_photo_take_one_at_a_time(host, latent, two, make_picture):
    with pytest.raises(ValueError, match="one at a time"):
        host.capture(latent, positive=two)
    with pytest.raises(ValueError, match="looks for one thing"):
        host.run(
            "InstDiffFindInPhoto", model=host.model, positive=two, negative=host.other_prompt(), vae=host.vae,
            image=make_picture(1, 64, 64),
        )  # fmt: skip


def with_control(host, control_net, positive):
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    node = host.nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, host.other_prompt(), control_net, hint, 0.7, 0.0, 1.0)


CHANGES = {
    "cfg 1": {"cfg": 1.0},
    "ancestral": {"sampler_name": "euler_ancestral"},
    "second order": {"sampler_name": "heun"},
    "another schedule": {"scheduler": "karras"},
}


@pytest.mark.one_host
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_cfg_samplers_and_schedules(host, latent, two, changes):
    samples, _, attention, of_edits = sample(host, latent, two, **changes)
    check(host, latent, samples, attention, of_edits, 5 if "heun" in changes.values() else 3)


def test_a_batch_has_a_mask_for_each_edit_and_picture(host, make_latent, two):
    latent = make_latent(2, 16, 16)
    samples, mask, attention, of_edits = sample(host, latent, two)
    assert (len(mask), len(of_edits)) == (2, 4)
    check(host, latent, samples, attention, of_edits)


def test_a_control_net_and_the_negative_in_an_area(host, latent, two, control_net):
    positive, negative = with_control(host, control_net, two)
    negative = host.nodes.ConditioningCombine().combine(
        negative, host.nodes.ConditioningSetArea().append(host.other_prompt("blurry"), 64, 64, 0, 0, 1.0)[0]
    )[0]
    samples, _, attention, of_edits = sample(host, latent, positive, negative=negative)
    check(host, latent, samples, attention, of_edits)


def test_set_mask_on_an_edit_prompt_is_where_that_edit_stays(host, latent):
    half = torch.zeros(1, 128, 128)
    half[:, :, 64:] = 1
    car = host.nodes.ConditioningSetMask().append(host.prompt("a red car"), half, "default", 1.0)[0]
    positive = host.nodes.ConditioningCombine().combine(host.prompt("a frog"), car)[0]
    samples, _, attention, of_edits = sample(host, latent, positive)
    check(host, latent, samples, attention, of_edits)
    assert not of_edits[1, :, :64].any()


@pytest.mark.parametrize(
    "node", ["PerturbedAttentionGuidance", "FreeU_V2", "RescaleCFG", "LazyCacheNode", "EasyCacheNode"]
)
def test_other_nodes_patches(host, latent, two, node):
    if not host.has(node):
        pytest.skip(f"this ComfyUI has no {node}")
    inputs = {
        "PerturbedAttentionGuidance": {"scale": 2.0},
        "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
        "RescaleCFG": {"multiplier": 0.7},
    }.get(node, {"reuse_threshold": 10.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False})
    model = host.extra(node, model=host.model, **inputs)
    samples, _, attention, of_edits = sample(host, latent, two, model=model)
    check(host, latent, samples, attention, of_edits, len(attention.maps))
    plain = host.k_sampler(latent, model=model)
    assert plain.isfinite().all()


@pytest.mark.parametrize("node", ["BasicGuider", "CFGGuider", "DualCFGGuider", "PerpNegGuider"])
def test_guiders(host, latent, two, node):
    model, given, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    negative = host.other_prompt()
    inputs = {
        "BasicGuider": {"conditioning": two},
        "CFGGuider": {"positive": two, "negative": negative, "cfg": 5.0},
        "DualCFGGuider": {
            "cond1": two, "cond2": negative, "negative": negative, "cfg_conds": 4.0, "cfg_cond2_negative": 3.0,
            "style": "regular",
        },
        "PerpNegGuider": {
            "positive": two, "negative": negative, "empty_conditioning": negative, "cfg": 5.0, "neg_scale": 1.0,
        },
    }[node]  # fmt: skip
    guider = host.extra(node, model=model, **inputs)
    sampled = host.extra(
        "SamplerCustomAdvanced", noise=host.extra("RandomNoise", noise_seed=1), guider=guider,
        sampler=host.extra("KSamplerSelect", sampler_name="euler"),
        sigmas=host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=3, denoise=0.6),
        latent_image=given,
    )  # fmt: skip
    refined = host.run("InstDiffRefineMask", attention=attention, sampled=sampled[0])
    record = host.hooks.get_record(attention, sampled[0])
    check(host, latent, sampled[0], record, refined[3])
    assert "predict_noise" not in vars(guider)


def test_a_model_on_several_gpus(host, latent, two):
    """Which divide the prompts of a call among them, with options of their own."""
    import comfy.samplers

    if not hasattr(comfy.samplers, "_calc_cond_batch_multigpu"):
        pytest.skip("this ComfyUI does not divide prompts")
    model = host.model.clone()
    devices = torch.device("cpu"), torch.device("cpu", 0)
    model.model_options["multigpu_clones"] = dict.fromkeys(devices, model)
    alone, divided = (sample(host, latent, two, model=each) for each in (host.model, model))
    assert divided[2].rest_ratio is not None
    torch.testing.assert_close(divided[0]["samples"], alone[0]["samples"], atol=1e-3, rtol=1e-3)
    assert torch.equal(divided[3], alone[3])
