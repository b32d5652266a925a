"""Batches, lists of latents and latents that are not of one picture."""

import pytest
import torch


def run(host, name, *arguments):
    """What a node of the host gives."""
    node = host.nodes.NODE_CLASS_MAPPINGS[name]
    return getattr(node(), node.FUNCTION)(*arguments)[0]


def kept(samples, mask, latent):
    """For the user's own masks: those are applied as they are."""
    inside = mask[:, None, ::8, ::8].bool().expand_as(latent)
    assert torch.equal(samples[~inside], latent[~inside])
    assert not torch.equal(samples[inside], latent[inside])


def test_a_batch_is_sampled_as_by_k_sampler_with_a_mask_for_each_picture(host, make_latent):
    latent = make_latent(3, 16, 16)
    samples, attention = host.capture(latent)
    assert torch.equal(samples, host.k_sampler(latent))
    assert attention.maps.shape[1] == 3
    samples, masks, attention = host.edit(latent)
    assert masks.shape == (3, 128, 128)
    assert len({mask.numpy().tobytes() for mask in host.changed(samples, latent, attention)}) == 3


@pytest.mark.one_host
def test_share_votes_over_the_batch(host, make_latent):
    """One mask for all: that of the mean of what the pictures say, and of none of them alone."""
    latent = make_latent(3, 16, 16)
    settings = host.settings(share=True, words="frog")
    samples, shared, attention = host.edit(latent, settings=settings)
    assert all(torch.equal(mask, shared[0]) for mask in shared)
    changed = (samples != latent).any(1)
    assert 0 < changed.float().mean() < 1
    assert all(torch.equal(mask, changed[0]) for mask in changed)
    single, *_ = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words="frog"))
    assert not any(torch.equal(mask, shared[0]) for mask in single)


def test_repeat_latent_batch_gives_every_copy_its_own_noise_and_mask(host, latent):
    repeated = run(host, "RepeatLatentBatch", {"samples": latent}, 3)
    samples, masks, attention = host.edit(latent, latent_image=repeated, denoise=0.5)
    assert masks.shape == (3, 128, 128)
    changed = host.changed(samples, repeated["samples"], attention)
    assert not torch.equal(changed[0], changed[1])
    ones = torch.ones(1, 8, 8)
    plain = host.k_sampler(latent, latent_image=repeated)
    assert torch.equal(host.edit(latent, latent_image=repeated, mask=ones)[0], plain)


def test_a_latent_out_of_a_batch_keeps_the_noise_and_the_mask_it_had_there(host, make_latent):
    latent = make_latent(3, 16, 16)
    second = run(host, "LatentFromBatch", {"samples": latent}, 1, 1)
    assert list(second["batch_index"]) == [1]
    _, masks, whole = host.edit(latent)
    samples, mask, alone = host.edit(latent, latent_image=second)
    torch.testing.assert_close(alone.maps[0, 0], whole.maps[0, 1], atol=1e-3, rtol=1e-2)
    assert (mask[0] == masks[1]).float().mean() > 0.99
    host.changed(samples, second["samples"], alone)
    first = host.capture(latent[1:2])[0]
    assert not torch.equal(first, host.capture(latent, latent_image=second)[0])


@pytest.mark.one_host
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_mask_batch_of_another_length_is_repeated_or_cut_as_by_the_host(host, make_latent, count):
    latent = make_latent(3, 16, 16)
    given = torch.zeros(count, 128, 128)
    for number, mask in enumerate(given):
        mask[:, 16 * number : 16 * number + 64] = 1
    samples, masks, _ = host.edit(latent, mask=given)
    assert torch.equal(masks, given[[number % count for number in range(3)]])
    kept(samples, masks, latent)


@pytest.mark.parametrize("shape", [(128, 128), (1, 1, 128, 128)])
def test_a_mask_without_batch_or_with_channels_is_taken(host, make_latent, shape):
    given = torch.zeros(shape)
    given[..., :64] = 1
    latent = make_latent(2, 16, 16)
    samples, masks, _ = host.edit(latent, mask=given)
    assert torch.equal(masks, given.reshape(1, 128, 128).expand(2, -1, -1))
    kept(samples, masks, latent)


@pytest.mark.one_host
def test_a_list_of_latents_of_different_sizes_gives_a_mask_each(host, make_latent):
    """The host runs a list's entries one after the other: all guides first, then all samplers."""
    latents = [make_latent(1, 16, 16), make_latent(2, 24, 16)]
    guided = [host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": each}) for each in latents]
    sampled = [host.k_sampler(latent["samples"], model=model) for model, latent, _ in guided]
    for samples, latent, (_, _, attention) in zip(sampled, latents, guided, strict=True):
        host.changed(samples, latent, attention)
        assert torch.equal(samples, host.edit(latent)[0])


def test_guidance_of_one_picture_serves_a_batch_of_it(host, latent):
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    repeated = run(host, "RepeatLatentBatch", passed, 2)
    samples = host.k_sampler(latent, model=model, latent_image=repeated)
    assert host.changed(samples, repeated["samples"], attention).shape == (2, 16, 16)


def test_guidance_says_which_latent_the_sampler_needs(host, latent, make_latent):
    model, *_ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    with pytest.raises(ValueError, match=r"give the sampler the LATENT that comes out of Instant Mask Guidance"):
        host.k_sampler(make_latent(1, 24, 24), model=model)


@pytest.fixture(params=["edit", "capture", "guidance"])
def take(request, host):
    """``take(latent)``: the latent given to one of our nodes."""
    if request.param == "guidance":
        return lambda latent: host.run("InstDiffMaskGuidance", model=host.model, latent=latent)
    return lambda latent: getattr(host, request.param)(latent["samples"])


def test_a_video_latent_is_refused(take):
    with pytest.raises(ValueError, match=r"must be of pictures .* not of video"):
        take({"samples": torch.zeros(1, 4, 3, 16, 16)})


def test_a_nested_latent_is_refused(take):
    nested = pytest.importorskip("comfy.nested_tensor", reason="this host has no nested latents")
    with pytest.raises(ValueError, match=r"must be of pictures .* not of video or audio"):
        take({"samples": nested.NestedTensor([torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 20)])})


@pytest.mark.parametrize("kind", ["video", "nested"])
def test_a_guided_model_refuses_them_from_another_node_as_well(host, latent, kind):
    model, *_ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    odd = torch.zeros(1, 4, 3, 16, 16)
    if kind == "nested":
        nested = pytest.importorskip("comfy.nested_tensor", reason="this host has no nested latents")
        odd = nested.NestedTensor([torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)])
    with pytest.raises(ValueError, match=r"must be of pictures .* not of video or audio"):
        host.k_sampler(odd, model=model)
