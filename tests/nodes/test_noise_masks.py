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
        refined, soft, _ = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(**settings))
        assert refined.any()
        assert not refined[~left].any()
        assert not soft[~left].any()


def test_a_mask_of_ones_edits_only_inside(host, half):
    latent, left = half
    samples, mask, _ = host.edit(None, latent_image=latent, mask=torch.ones(1, 8, 8))
    assert torch.equal(mask > 0.5, left)
    assert torch.equal((samples != latent["samples"]).any(1), left[:, ::8, ::8])


def test_the_finish_paints_nothing_that_was_not_edited(host, half):
    latent, left = half
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    _, mask, _ = host.edit(None, latent_image=latent, denoise=0.5)
    inputs = host.sampling(None) | {"vae": host.vae, "image": image, "mask": mask, "grow": 0, "feather": 0}
    del inputs["latent_image"]
    finished, _ = host.run("InstDiffInpaintFinish", **inputs)
    changed = (finished != image).any(-1)
    assert changed[left].any()
    assert not changed[~left].any()


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
