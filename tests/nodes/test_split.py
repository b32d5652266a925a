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
@pytest.mark.parametrize(
    ("thing", "prompt"), [("cat", "a frog"), pytest.param("car", "a tree", marks=pytest.mark.one_host)]
)
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


@pytest.mark.parametrize("changes", [{}, {"sampler_name": "heun"}, {"cfg": 1.0}], ids=str)
def test_two_k_sampler_advanced_on_one_guidance(host, changes):
    latent, truth = host.scene("cat")
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})

    def part(source, start, end, add_noise="enable", leftover="disable"):
        inputs = host.sampling(None, latent_image=source, model=model, steps=10, **changes)
        inputs |= {"noise_seed": inputs.pop("seed"), "add_noise": add_noise, "return_with_leftover_noise": leftover}
        del inputs["denoise"]
        return host.extra("KSamplerAdvanced", **inputs, start_at_step=start, end_at_step=end)

    once = part(passed, 5, 10)
    half = part(passed, 5, 7, leftover="enable")
    whole = part(half, 7, 10, add_noise="disable")
    torch.testing.assert_close(whole["samples"], once["samples"], atol=1e-3, rtol=1e-3)
    masks = [host.run("InstDiffRefineMask", attention=attention, sampled=each)[0] for each in (once, whole)]
    assert host.iou(masks[1], masks[0] > 0.5) > 0.99
    assert host.iou(masks[1], truth) > 0.75


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


def test_a_second_part_by_a_model_that_is_read_on_another_grid_goes_on(host, latent, layout_model):
    """As SDXL's refiner may be."""
    first, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    second, _, attention = host.run("InstDiffMaskGuidance", model=layout_model("sd1"), latent={"samples": latent})
    sigmas = host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=4, denoise=0.6)
    high, low = host.extra("SplitSigmas", sigmas=sigmas, step=2)
    half = sampled(host, first, passed, "a frog", high, noise=True)
    whole = sampled(host, second, half, "a frog", low, noise=False)
    assert len(host.hooks.get_record(attention, whole).sigmas) == 4
    assert host.run("InstDiffRefineMask", attention=attention, sampled=whole)[0].shape == (1, 128, 128)
