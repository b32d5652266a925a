"""A mask belongs to the LATENT that it came with, whatever else the same guidance has sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(params=["InstDiffRefineMask", pytest.param("InstDiffAttentionHeatmaps", marks=pytest.mark.one_host)])
def shown(request: pytest.FixtureRequest, host: Any) -> Any:
    """``shown(attention, sampled)``: the mask, or the heatmaps, of a sampling."""

    def show(attention: Any, sampled: Any = None) -> Tensor:
        result = host.run(request.param, attention=attention, sampled=sampled)
        return result[0] if request.param == "InstDiffRefineMask" else result

    return show


def guidance(host: Any, latent: Tensor) -> tuple[Any, Any, Any]:
    """Model, LATENT and ATTENTION."""
    return host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})


def k_sampler(host: Any, latent: Any, **changes: Any) -> Any:
    """KSampler's LATENT."""
    return host.nodes.KSampler().sample(**host.sampling(None, latent_image=latent, **changes))[0]


def test_each_of_two_samplers_behind_one_guidance_has_its_own(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    frog, tree = (k_sampler(host, passed, model=model, positive=host.prompt(text)) for text in ("a frog", "a tree"))
    wanted = [host.edit(latent, positive=host.prompt(text))[2] for text in ("a frog", "a tree")]
    assert not torch.equal(shown(wanted[0]), shown(wanted[1]))
    for sampled, expected in ((tree, wanted[1]), (frog, wanted[0]), (tree, wanted[1])):
        assert torch.equal(shown(attention, sampled), shown(expected))


def test_each_of_two_samplers_in_a_row_has_its_own(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    first = k_sampler(host, passed, model=model)
    second = k_sampler(host, first, model=model, positive=host.prompt("a tree"), seed=8)
    assert torch.equal(shown(attention, first), shown(host.edit(latent)[2]))
    alone, _, other = guidance(host, latent)
    again = k_sampler(host, {"samples": first["samples"].clone()}, model=alone, positive=host.prompt("a tree"), seed=8)
    assert torch.equal(shown(attention, second), shown(other, again))


def test_without_a_link_to_the_sampled_latent_one_sampling_is_meant(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    k_sampler(host, passed, model=model)
    assert torch.equal(shown(attention), shown(host.edit(latent)[2]))
    k_sampler(host, passed, model=model, seed=8)
    with pytest.raises(ValueError, match=r"has sampled more than once: connect the LATENT .* to .* 'sampled'"):
        shown(attention)


def test_a_latent_of_the_plain_model_has_none(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    k_sampler(host, passed, model=model)
    with pytest.raises(ValueError, match="'sampled' was not made with Instant Mask Guidance: connect it straight"):
        shown(attention, k_sampler(host, passed))


def test_a_denoise_of_nothing_leaves_none(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    k_sampler(host, passed, model=model)
    with pytest.raises(ValueError, match="set its denoise above 0"):
        shown(attention, k_sampler(host, passed, model=model, denoise=0.0))


def test_after_a_refused_sampling_the_one_before_is_not_shown_for_it(host, latent, shown):
    model, passed, attention = guidance(host, latent)
    first = k_sampler(host, passed, model=model)
    with pytest.raises(ValueError, match="carries no words"):
        k_sampler(host, passed, model=model, positive=host.other_prompt("a frog"))
    with pytest.raises(ValueError, match="has sampled more than once"):
        shown(attention)
    assert torch.equal(shown(attention, first), shown(host.edit(latent)[2]))


def test_a_latent_keeps_its_record_while_its_samples_stay_as_they_are(host, latent, shown):
    """Nodes that pass the samples on keep the record; those that make other samples of them lose it, and say so."""
    model, passed, attention = guidance(host, latent)
    sampled = k_sampler(host, passed, model=model)
    masked = host.nodes.SetLatentNoiseMask().set_mask(sampled, torch.ones(1, 128, 128))[0]
    assert torch.equal(shown(attention, masked), shown(attention, sampled))
    larger = host.nodes.LatentUpscaleBy().upscale(sampled, "nearest-exact", 2.0)[0]
    with pytest.raises(ValueError, match="connect it straight from the sampler"):
        shown(attention, larger)


def test_the_record_goes_with_its_latent(host, latent):
    """No cache of the guide keeps what no latent needs any more."""
    import gc
    import weakref

    model, passed, _ = guidance(host, latent)
    sampled = k_sampler(host, passed, model=model)
    record = weakref.ref(host.hooks.get_record(guidance(host, latent)[2], sampled))
    k_sampler(host, passed, model=model, seed=8)
    assert record() is not None
    del sampled
    gc.collect()
    assert record() is None
