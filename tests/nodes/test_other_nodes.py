"""Other nodes' hooks act as before, and ours are gone however the sampling ends."""

import pytest
import torch

READ = [("input", 3), ("output", 2), ("input", 3, 0)]
"""Layers that we read, and a single transformer of one: the layout of the embedded U-Net."""


def weaker(q, k, v, extra):
    """Another node's cross-attention."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v * 0.3, extra["n_heads"])


@pytest.mark.parametrize("key", [*READ, ("input", 5)])
def test_a_replaced_cross_attention_before_ours_still_acts(host, latent, key):
    model = host.model.clone()
    model.set_model_attn2_replace(weaker, *key)
    samples, attention = host.capture(latent, model=model)
    assert torch.equal(samples, host.k_sampler(latent, model=model))
    assert not torch.equal(samples, host.k_sampler(latent))
    assert len(attention.sigmas) == 4


@pytest.mark.parametrize("key", READ)
def test_a_replaced_cross_attention_after_ours_still_acts(host, latent, key):
    positive = host.prompt("a frog")
    guide = host.hooks.InstantMaskWrapper(None)
    after = host.hooks.wrap_model(host.model, guide).clone()
    after.set_model_attn2_replace(weaker, *key)
    other = host.model.clone()
    other.set_model_attn2_replace(weaker, *key)
    assert torch.equal(host.k_sampler(latent, model=after, positive=positive), host.k_sampler(latent, model=other))
    assert len(guide.record.sigmas) == 4


def test_a_function_after_guidance_still_acts(host, latent):
    """A post-CFG function on the model sees every step of the edit."""
    seen = []

    def halve(args):
        seen.append(args["sigma"])
        return args["denoised"] * 0.5

    model = host.model.clone()
    model.set_model_sampler_post_cfg_function(halve)
    assert torch.equal(host.capture(latent, model=model)[0], host.k_sampler(latent, model=model))
    assert len(seen) == 8


@pytest.mark.parametrize("node", ["edit", "capture"])
def test_an_interrupted_run_leaves_nothing_behind(host, latent, node):
    import comfy.model_management

    stopping: list[bool] = []
    calls: list[int] = []

    def hook(args):
        calls.append(1)
        if stopping and len(calls) == 2:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()
        return args["denoised"]

    model = host.model.clone()
    model.set_model_sampler_post_cfg_function(hook)
    before, edited = host.k_sampler(latent, model=model), getattr(host, node)(latent, model=model)[0]
    calls.clear()
    stopping.append(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        getattr(host, node)(latent, model=model)
    stopping.clear()
    assert len(calls) == 2
    assert torch.equal(host.k_sampler(latent, model=model), before)
    assert torch.equal(getattr(host, node)(latent, model=model)[0], edited)


def test_an_error_in_another_nodes_hook_comes_through_and_leaves_nothing_behind(host, latent):
    failing: list[bool] = []
    calls: list[int] = []

    def hook(args):
        calls.append(1)
        if failing and len(calls) > 1:
            raise RuntimeError("the other node's own error")
        return args["denoised"]

    model = host.model.clone()
    model.set_model_sampler_post_cfg_function(hook)
    before = host.k_sampler(latent, model=model)
    calls.clear()
    failing.append(True)
    with pytest.raises(RuntimeError, match="the other node's own error"):
        host.edit(latent, model=model)
    failing.clear()
    assert torch.equal(host.k_sampler(latent, model=model), before)


@pytest.fixture
def progress():
    """Takes part in the host's progress; the hook is gone afterwards."""
    import comfy.utils

    yield comfy.utils.set_progress_bar_global_hook
    comfy.utils.set_progress_bar_global_hook(None)


def test_progress_reaches_the_host_from_the_first_step_to_the_last(host, latent, progress):
    seen = []
    progress(lambda value, total, preview, **kwargs: seen.append((value, total)))
    host.edit(latent)
    assert (seen[0], seen[-1]) == ((1, 4), (4, 4))
    assert seen == sorted(set(seen))
