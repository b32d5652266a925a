"""The embedded model gives the host and diffusers the same numbers."""

import pytest
import torch

from instdiff_core.pipeline import load_mini


@pytest.fixture(scope="module")
def parts():
    return load_mini()


def context(parts, text):
    tokens = parts.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return parts.text_encoder(tokens).last_hidden_state


@pytest.mark.parametrize("text", ["", "a dog", "a photo of a red car on the grass"])
def test_the_text_encoder_agrees(host, parts, text):
    torch.testing.assert_close(host.other_prompt(text)[0][0], context(parts, text), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", [1, 500, 981])
def test_the_unet_agrees(host, parts, make_latent, step):
    noisy, text = make_latent(1, 32, 32) / 4, context(parts, "a dog")
    step = torch.tensor([step])
    ours = host.model.model.diffusion_model(noisy, step.float(), context=text)
    torch.testing.assert_close(ours, parts.unet(noisy, step, text).sample, atol=2e-4, rtol=1e-3)


def test_the_inpainting_unet_agrees(host, parts, make_latent):
    model = host.inpainting_model
    noisy, text, step = make_latent(1, 32, 32, channels=9) / 4, context(parts, "a dog"), torch.tensor([500])
    ours = model.model.diffusion_model(noisy, step.float(), context=text)
    torch.testing.assert_close(ours, parts.inpainting(noisy, step, text).sample, atol=2e-4, rtol=1e-3)


def test_the_autoencoder_agrees(host, parts, make_picture):
    picture = make_picture(1, 64, 96)
    latent_format = host.model.get_model_object("latent_format")
    latent = parts.vae.encode(picture.movedim(-1, 1) * 2 - 1).latents
    torch.testing.assert_close(latent_format.process_in(host.vae.encode(picture)), latent, atol=1e-3, rtol=1e-3)
    decoded = (parts.vae.decode(latent).sample.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(host.vae.decode(latent_format.process_out(latent)), decoded, atol=1e-3, rtol=1e-3)


def test_the_noise_schedule_agrees(host, parts):
    kept = parts.scheduler.alphas_cumprod
    sigmas = host.model.get_model_object("model_sampling").sigmas
    torch.testing.assert_close(sigmas, ((1 - kept) / kept).sqrt().to(sigmas), atol=1e-4, rtol=1e-4)


def test_a_batch_of_scenes_has_those_of_the_seeds_that_follow(host):
    pictures, masks = host.run("InstDiffMiniScene", object="dog", background="snow", seed=5, batch_size=3)
    assert len(pictures) == len(masks) == 3
    last = host.run("InstDiffMiniScene", object="dog", background="snow", seed=7)
    assert torch.equal(pictures[2:], last[0])
    assert torch.equal(masks[2:], last[1])


def test_a_scene_comes_with_the_mask_of_its_object(host):
    picture, mask = host.run("InstDiffMiniScene", object="dog", background="snow", seed=5)
    assert picture.shape == (1, 256, 256, 3)
    assert mask.shape == (1, 256, 256)
    assert 0 < mask.mean() < 0.7
    assert torch.equal(picture, host.run("InstDiffMiniScene", object="dog", background="snow", seed=5)[0])
