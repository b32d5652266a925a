"""Sampling in two parts is sampling in one: the second goes on with what the first has found."""

import pytest
import torch


def sampled(host, model, latent, prompt, sigmas, noise):
    prompts = {"positive": host.prompt(prompt), "negative": host.other_prompt()}
    return host.extra(
        "SamplerCustomAdvanced",
        noise=host.extra("RandomNoise", noise_seed=3) if noise else host.extra("DisableNoise"),
        guider=host.extra("CFGGuider", model=model, cfg=5.0, **prompts),
        sampler=host.extra("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas,
        latent_image=latent,
    )[0]


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(("thing", "prompt"), [("cat", "a frog"), ("car", "a tree")])
def test_split_sigmas_with_both_parts_guided(host, thing, prompt, step):
    latent, _ = host.scene(thing)
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    sigmas = host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=6, denoise=0.6)
    high, low = host.extra("SplitSigmas", sigmas=sigmas, step=step)
    once = sampled(host, model, passed, prompt, sigmas, noise=True)
    half = sampled(host, model, passed, prompt, high, noise=True)
    whole = sampled(host, model, half, prompt, low, noise=False)
    torch.testing.assert_close(whole["samples"], once["samples"], atol=1e-4, rtol=1e-4)
    assert torch.equal((whole["samples"] == latent).all(1), (once["samples"] == latent).all(1))
    masks = [host.run("InstDiffRefineMask", attention=attention, sampled=each)[0] for each in (once, whole, half)]
    assert torch.equal(masks[0], masks[1])
    assert len(host.hooks.get_record(attention, half).sigmas) == step


def test_the_second_part_with_another_prompt_finds_its_own_mask(host):
    latent, _ = host.scene("cat")
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    sigmas = host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=6, denoise=0.6)
    high, low = host.extra("SplitSigmas", sigmas=sigmas, step=2)
    half = sampled(host, model, passed, "a frog", high, noise=True)
    whole = sampled(host, model, half, "a tree on the sand", low, noise=False)
    assert host.hooks.get_record(attention, whole).words.texts == ("a", "tree", "on", "the", "sand")
    assert len(host.hooks.get_record(attention, whole).sigmas) == 4
    kept = (whole["samples"] == latent).all(1)
    assert 0 < kept.float().mean() < 1
