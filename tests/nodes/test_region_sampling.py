"""Region sampling: from when the mask has settled, the model computes its surroundings only."""

import logging

import pytest
import torch
from torch.nn.functional import interpolate

from .conftest import find_class

STEPS = 4
WHOLE = (16, 16)


@pytest.fixture
def watch():
    """``watch(model)``: the sizes ``(height, width)`` of its U-Net's inputs from then on, in order."""
    hooks = []

    def start(model):
        sizes = []
        first = model.model.diffusion_model.input_blocks[0][0]
        hooks.append(first.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[-2:]))))
        return sizes

    yield start
    for hook in hooks:
        hook.remove()


@pytest.fixture
def calls(host, watch):
    return watch(host.model)


@pytest.fixture
def settings(host):
    return host.settings(region="auto")


@pytest.fixture
def spot():
    """A MASK of a small part of a picture of 128 pixels."""
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:64, 72:88] = 1
    return mask


def report(host, attention):
    return host.run("InstDiffRefineMask", attention=attention)[2]


def check_kept(samples, latent, mask):
    """The samples are the latent outside the mask, bit for bit, and others inside."""
    inside = (interpolate(mask[:, None], latent.shape[-2:], mode="area") > 0.5).expand_as(latent)
    assert torch.equal(samples[~inside], latent[~inside])
    assert not torch.equal(samples[inside], latent[inside])
    assert samples.isfinite().all()


def check_cut(calls):
    """The first step computed the whole picture, the others a part of it."""
    assert calls[0] == WHOLE
    assert all(height * width < 16 * 16 for height, width in calls[1:])
    assert len(calls) > 1


def test_a_settled_mask_stays_and_its_surroundings_are_computed(host, watch, settings):
    latent, truth = host.scene("cat", seed=7)
    calls = watch(host.model)
    samples, mask, attention = host.edit(latent, settings=settings, steps=8, denoise=0.5)
    assert calls.pop(0) == (32, 32)  # the look at the picture
    whole = calls.count((32, 32))
    assert 2 < whole < len(calls) == 8
    assert calls == [(32, 32)] * whole + calls[-1:] * (8 - whole)
    assert len(attention.sigmas) == whole
    assert f"settled after {whole} of 8 steps" in report(host, attention)
    check_kept(samples, latent, (samples != latent).any(1).float())
    assert host.iou(mask, truth) > 0.6


def test_off_computes_the_whole_picture(host, calls, latent, spot):
    host.edit(latent, mask=spot)
    assert calls == [WHOLE] * STEPS


def test_a_given_mask_needs_one_whole_step(host, calls, settings, latent, spot):
    samples, _, attention = host.edit(latent, settings=settings, mask=spot)
    check_cut(calls)
    check_kept(samples, latent, spot)
    assert "settled after 1 of 4 steps" in report(host, attention)


def test_a_mask_that_does_not_settle_computes_the_whole_picture(host, calls, settings, latent):
    samples, _, attention = host.edit(latent, settings=settings, steps=2)
    assert set(calls) == {WHOLE}
    assert torch.equal(samples, host.edit(latent, steps=2)[0])
    assert "since the mask did not settle" in report(host, attention)


def test_a_mask_of_most_of_the_picture_computes_the_whole_picture(host, calls, settings, latent):
    most = torch.zeros(1, 128, 128)
    most[:, 8:-8, 8:-8] = 1
    _, _, attention = host.edit(latent, settings=settings, mask=most)
    assert calls == [WHOLE] * STEPS
    assert "most of the picture" in report(host, attention)


@pytest.mark.one_host
def test_every_sampler_keeps_the_rest(host, calls, settings, latent, spot):
    for name in host.nodes.KSampler.INPUT_TYPES()["required"]["sampler_name"][0]:
        calls.clear()
        samples, _, _ = host.edit(latent, settings=settings, mask=spot, sampler_name=name)
        check_cut(calls)
        check_kept(samples, latent, spot)


@pytest.mark.one_host
def test_what_is_computed_is_near_what_the_whole_picture_gives(host, settings):
    latent, truth = host.scene("cat")
    inputs = {"mask": truth.float(), "positive": host.prompt("a dog on the grass"), "steps": 8}
    part, whole = (host.edit(latent, settings=each, **inputs)[0] for each in (settings, host.settings()))
    changed = (whole - latent).square().mean()
    assert (part - whole).square().mean() < 0.5 * changed


@pytest.mark.one_host
@pytest.mark.parametrize("size", [(16, 16), (17, 21), (33, 16)])
def test_pictures_of_any_size_and_batches(host, watch, settings, make_latent, size):
    latent = make_latent(3, *size)
    masks = torch.zeros(3, *(side * 8 for side in size))
    masks[0, -16:, -24:] = 1
    masks[1, -40:-24, -24:] = 1
    masks[2, -24:, -40:-16] = 1
    calls = watch(host.model)
    samples, _, _ = host.edit(latent, settings=settings, mask=masks)
    assert calls[0] == size != calls[-1]
    check_kept(samples, latent, masks)


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_instant_mask_guidance_with_another_sampler(host, calls, settings, latent, spot, cfg):
    model, _, _ = host.run(
        "InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, mask=spot, settings=settings
    )
    samples = host.k_sampler(latent, model=model, cfg=cfg)
    assert calls[-1] != WHOLE
    check_kept(samples, latent, spot)


def test_inpainting_models_see_their_part_of_the_masked_picture(
    host, watch, settings, inpainting_model, spot, make_picture
):
    mask = interpolate(spot[:, None], (256, 256))[:, 0]
    positive, negative, latent = host.nodes.InpaintModelConditioning().encode(
        host.prompt("a frog"), host.other_prompt(), make_picture(1, 256, 256), host.vae, mask, True
    )
    prompts = {"positive": positive, "negative": negative}
    inputs = host.sampling(latent["samples"], model=inpainting_model, settings=settings, mask=mask, **prompts)
    calls = watch(inpainting_model)
    samples, *_ = host.run("InstDiffMaskedSampler", **inputs | {"latent_image": latent})
    assert calls[0] == (32, 32) != calls[-1]
    check_kept(samples["samples"], latent["samples"], mask)


def test_control_nets_act_on_their_part(host, calls, settings, latent, spot, control_net, make_picture, caplog):
    def controlled(strength):
        positive, negative = host.nodes.ControlNetApplyAdvanced().apply_controlnet(
            host.prompt("a frog"), host.other_prompt(), control_net, make_picture(1, 128, 128), strength, 0.0, 1.0
        )
        return host.edit(latent, settings=settings, mask=spot, positive=positive, negative=negative)[0]

    with caplog.at_level(logging.WARNING):
        samples = controlled(0.8)
    assert "could not be applied" not in caplog.text
    check_cut(calls)
    check_kept(samples, latent, spot)
    assert not torch.allclose(samples, controlled(0.2))


def test_another_prompt_in_an_area_is_left_alone(host, calls, settings, latent, spot):
    area = host.extra("ConditioningSetArea", host.other_prompt("the grass"), 64, 128, 0, 64, 1.0)
    positive = host.extra("ConditioningCombine", host.prompt("a frog"), area)
    samples, _, _ = host.edit(latent, settings=settings, mask=spot, positive=positive)
    assert calls.count((8, 8)) == STEPS
    assert calls.count(WHOLE) == 1
    check_kept(samples, latent, spot)


@pytest.mark.parametrize(
    ("node", "arguments"),
    [
        ("FreeU", (1.3, 1.4, 0.9, 0.2)),
        ("HyperTile", (32, 2, 1, False)),
        ("PerturbedAttentionGuidance", (3.0,)),
        ("SelfAttentionGuidance", (0.5, 2.0)),
        ("RescaleCFG", (0.7,)),
        ("EasyCacheNode", (3.0, 0.0, 1.0, False)),
        ("PatchModelAddDownscale", (3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")),
    ],
)
def test_patches_of_other_nodes_see_the_whole_picture(host, calls, settings, latent, spot, node, arguments):
    if find_class(node) is None:
        pytest.skip(f"this ComfyUI has no {node}")
    model = host.extra(node, host.model, *arguments)
    samples, _, attention = host.edit(latent, model=model, settings=settings, mask=spot)
    assert set(calls) == {WHOLE}
    assert "another node changes the model's calls" in report(host, attention)
    assert torch.equal(samples, host.edit(latent, model=model, mask=spot)[0])


def test_a_failed_sampling_leaves_nothing(host, watch, settings, latent, spot):
    before = host.k_sampler(latent)
    calls = watch(host.model)

    def fail(*_):
        if len(calls) == 3:
            raise RuntimeError("the model's own error")

    hook = host.model.model.diffusion_model.time_embed.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="own error"):
        host.edit(latent, settings=settings, mask=spot)
    hook.remove()
    check_cut(calls)
    assert torch.equal(host.k_sampler(latent), before)
