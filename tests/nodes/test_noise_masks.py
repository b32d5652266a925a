"""The mask is what was edited: it stays inside the latent's own noise mask."""

import pytest
import torch


@pytest.fixture
def half(host):
    """The LATENT of a scene whose left half alone may be edited, and that half, bool, at picture size."""
    latent, _ = host.scene("cat")
    left = torch.zeros(1, 256, 256)
    left[..., :128] = 1
    return host.nodes.SetLatentNoiseMask().set_mask({"samples": latent}, left)[0], left.bool()


def test_the_masks_of_sampler_refine_and_settings_stay_inside(host, half):
    latent, left = half
    samples, mask, attention = host.edit(None, latent_image=latent, denoise=0.5)
    assert 0 < mask[left].mean() < 1
    assert not mask[~left].any()
    changed = (samples != latent["samples"]).any(1)
    assert not changed[..., 16:].any()
    for settings in ({}, {"threshold": 0.0}, {"preset": "paper", "threshold": 0.0}, {"share": True}):
        refined, soft, *_ = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(**settings))
        assert refined.any()
        assert not refined[~left].any()
        assert not soft[~left].any()


def test_a_mask_of_ones_edits_only_inside(host, half):
    latent, left = half
    samples, mask, _ = host.edit(None, latent_image=latent, mask=torch.ones(1, 8, 8))
    assert torch.equal(mask > 0.5, left)
    assert torch.equal((samples != latent["samples"]).any(1), left[:, ::8, ::8])


def finished(host, image, mask, **changes):
    """Inpaint Finish: where the picture changed, and the painted area, both bool."""
    inputs = host.sampling(None) | {"vae": host.vae, "image": image, "mask": mask} | changes
    del inputs["latent_image"]
    result, area = host.run("InstDiffInpaintFinish", **inputs)
    return (result != image).any(-1), area > 0


@pytest.mark.one_host
def test_the_finish_paints_nothing_that_was_not_edited(host, half):
    latent, left = half
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    _, mask, _ = host.edit(None, latent_image=latent, denoise=0.5)
    changed, area = finished(host, image, mask, grow=0, feather=0)
    assert torch.equal(area, mask > 0.5)
    assert changed[left].any()
    assert not changed[~left].any()


@pytest.mark.one_host
@pytest.mark.parametrize("size", [(256, 256), (261, 251)], ids=["whole latent pixels", "of any size"])
def test_growing_does_not_reach_beyond_the_noise_mask_of_the_edit(host, make_picture, size):
    """The picture's own pixels that VAE Encode leaves out, at its border, go with those next to them."""
    image, left = make_picture(1, *size), torch.zeros(1, 256, 256)
    left[..., :120] = 1
    latent = {"samples": host.vae.encode(image)}
    edit = host.nodes.SetLatentNoiseMask().set_mask(latent, left)[0]
    mask = torch.zeros(1, *size)
    mask[:, :120, 60:118] = 1
    edge = (size[1] - size[1] // 8 * 8) // 2 + round(120 * (size[1] // 8 * 8) / 256 / 8) * 8
    for grow, feather in ((8, 8), (64, 0)):
        inputs = {"grow": grow, "feather": feather, "steps": 1}
        changed, area = finished(host, image, mask, samples=edit, **inputs)
        assert area[..., 118:edge].any()
        assert not area[..., edge:].any()
        assert not changed[~area].any()
        assert changed[..., edge - 1].any()
        assert finished(host, image, mask, samples=latent, **inputs)[1][..., edge:].any()


def test_vae_encode_for_inpainting_limits_the_mask_too(host):
    image, truth = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    latent = host.nodes.VAEEncodeForInpaint().encode(host.vae, image, truth, grow_mask_by=6)[0]
    _, mask, _ = host.edit(None, latent_image=latent, denoise=0.8)
    allowed = torch.nn.functional.max_pool2d(truth[:, None], 31, 1, 15)[:, 0] > 0.5
    assert mask.any()
    assert not mask[~allowed].any()


def test_each_picture_of_a_batch_has_its_own(host, half):
    latent, left = half
    both = {"samples": latent["samples"].repeat(2, 1, 1, 1), "noise_mask": torch.cat([left, ~left]).float()[:, None]}
    _, mask, _ = host.edit(None, latent_image=both, denoise=0.5)
    assert not mask[0][~left[0]].any()
    assert not mask[1][left[0]].any()
    assert mask[0].any()
    assert mask[1].any()


@pytest.fixture
def user_mask():
    """A mask of the user's on the latent, soft: a ramp from left to right."""
    return torch.linspace(0, 1, 128).expand(1, 1, 128, 128)


@pytest.mark.parametrize("differential", [False, True])
def test_the_instant_mask_works_inside_a_denoise_mask(host, latent, user_mask, differential):
    source = {"samples": latent, "noise_mask": user_mask}
    model = host.extra("DifferentialDiffusion", host.model) if differential else host.model
    plain = host.nodes.KSampler().sample(**host.sampling(latent, model=model, latent_image=source))[0]["samples"]
    assert not torch.equal(plain, host.k_sampler(latent))
    ones, *_ = host.edit(latent, model=model, latent_image=source, mask=torch.ones(1, 8, 8))
    assert torch.equal(ones, plain)
    assert torch.equal(host.capture(latent, model=model, latent_image=source)[0], plain)
    samples, _, attention = host.edit(latent, model=model, latent_image=source)
    changed = (samples != latent).any(1)
    assert 0 < changed.float().mean() < 1
    assert changed.float().mean() < (plain != latent).any(1).float().mean()
    assert len(attention.sigmas) == 4


def test_differential_diffusion_may_come_after_ours(host, latent, user_mask):
    source = {"samples": latent, "noise_mask": user_mask}
    ours, _, attention = host.run(
        "InstDiffMaskGuidance", model=host.model, latent=source, mask=torch.ones(1, 8, 8)
    )  # fmt: skip
    after = host.extra("DifferentialDiffusion", ours)
    plain = {"latent_image": source, "model": host.extra("DifferentialDiffusion", host.model)}
    assert torch.equal(host.k_sampler(latent, model=after, latent_image=source), host.k_sampler(latent, **plain))
    assert len(attention.record.sigmas) == 4


def test_an_edit_stays_within_a_hard_denoise_mask(host, latent):
    given = torch.zeros(1, 1, 128, 128)
    given[..., :64] = 1
    source = {"samples": latent, "noise_mask": given}
    samples = host.edit(latent, latent_image=source, denoise=0.5)[0]
    changed = (samples != latent).any(1)
    assert 0 < changed[..., :8].float().mean() < 1
    torch.testing.assert_close(samples[..., 8:], latent[..., 8:], atol=1e-4, rtol=1e-4)
