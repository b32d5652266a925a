"""Batches, and latents of any shape."""

import pytest
import torch


@pytest.mark.one_host
def test_every_picture_of_a_batch_gets_its_own_mask(host, make_latent):
    latent = make_latent(2, 16, 16)
    _, masks, attention = host.edit(latent)
    assert masks.shape == (2, 128, 128)
    assert not torch.equal(masks[0], masks[1])
    assert attention.maps.shape[1] == 2
    alone = host.edit(latent[:1])[1]
    assert (alone[0] == masks[0]).float().mean() > 0.99


@pytest.mark.one_host
def test_share_gives_a_batch_one_mask(host, make_latent):
    masks = host.edit(make_latent(2, 16, 16), settings=host.settings(share=True))[1]
    assert masks.shape == (2, 128, 128)
    assert torch.equal(masks[0], masks[1])
    assert 0 < masks.mean() < 1


def test_one_mask_of_the_users_serves_a_batch(host, make_latent):
    latent = make_latent(2, 16, 16)
    given = torch.zeros(1, 128, 128)
    given[:, :64] = 1
    samples, masks, _ = host.edit(latent, mask=given)
    assert torch.equal(masks, given.expand(2, -1, -1))
    assert torch.equal(samples[:, :, 8:], latent[:, :, 8:])


@pytest.mark.one_host
@pytest.mark.parametrize("size", [(16, 24), (24, 12), (13, 18), (17, 11)])
def test_a_latent_of_any_shape_is_sampled_as_by_k_sampler_and_gets_a_mask_of_its_shape(host, make_latent, size):
    latent = make_latent(1, *size)
    assert torch.equal(host.capture(latent)[0], host.k_sampler(latent))
    samples, mask, attention = host.edit(latent)
    assert samples.shape == latent.shape
    assert mask.shape == (1, size[0] * 8, size[1] * 8)
    assert 0 < mask.mean() < 1
    assert attention.maps.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))


def test_a_mask_of_another_size_is_brought_to_the_latents(host, latent):
    given = torch.zeros(1, 50, 70)
    given[:, :, 35:] = 1
    samples, mask, _ = host.edit(latent, mask=given)
    assert mask.shape == (1, 128, 128)
    assert torch.equal(samples[..., :8], latent[..., :8])
    assert (samples[..., 8:] != latent[..., 8:]).all()


@pytest.mark.one_host
@pytest.mark.parametrize(("side", "warned"), [(32, False), (56, True)])
def test_a_picture_far_larger_than_the_models_own_is_warned_of_with_the_remedy(host, make_latent, caplog, side, warned):
    host.edit(make_latent(1, side, side), steps=1)
    told = [record.message for record in caplog.records if record.message.startswith("InstDiffEdit")]
    assert len(told) == warned
    if warned:
        assert "448 x 448, and this model was made for about 256 x 256 pixels" in told[0]
        assert "Scale Image to Total Pixels" in told[0]
