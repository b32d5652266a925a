"""DiffEdit Mask: what differs between two prompts, found by the host's own sampling."""

import copy

import pytest
import torch

SCENES = [("cat", "dog", "grass"), ("car", "apple", "sand"), ("apple", "cat", "night")]
WHAT = {"draws": 2, "seed": 3}


def overlap(mask, truth):
    mask, truth = mask.bool(), truth.bool()
    return ((mask & truth).sum() / (mask | truth).sum()).item()


@pytest.fixture
def find(host):
    """``find(samples, **changes)``: mask and soft mask of a latent, by default from a cat to a dog."""

    def run(samples, **changes):
        prompts = {"source": host.other_prompt("a cat"), "target": host.other_prompt("a dog")}
        inputs = {"model": host.model, "latent_image": {"samples": samples}} | prompts | WHAT | changes
        return host.run("InstDiffDiffEditMask", **inputs)

    return run


@pytest.fixture(scope="module")
def scene(host):
    """``scene(thing, background)``: the latent of a picture, and the exact mask of the thing."""

    def draw(thing="cat", background="grass"):
        picture, truth = host.run("InstDiffMiniScene", object=thing, background=background, seed=5)
        return host.vae.encode(picture), truth

    with torch.inference_mode():
        return draw


@pytest.mark.parametrize(("thing", "other", "background"), SCENES)
def test_the_mask_is_the_object_that_only_the_source_names(host, find, scene, thing, other, background):
    samples, truth = scene(thing, background)
    prompts = {"source": host.other_prompt(f"a {thing}"), "target": host.other_prompt(f"a {other}")}
    mask, _ = find(samples, **prompts)
    assert mask.shape == truth.shape
    assert overlap(mask, truth) > 0.6


def test_an_edit_prompt_and_an_empty_source_do_as_well(host, find, scene):
    samples, truth = scene()
    mask, _ = find(samples, source=host.other_prompt(), target=host.prompt("a dog"))
    assert overlap(mask, truth) > 0.6


@pytest.mark.one_host
def test_the_mask_is_the_soft_mask_cut_at_the_threshold(find, scene):
    samples, _ = scene()
    for threshold in (0.3, 0.8):
        mask, soft = find(samples, threshold=threshold)
        assert torch.equal(mask, (soft > threshold).float())
        assert soft.min() >= 0
        assert soft.max() <= 1
        assert mask.any()


@pytest.mark.one_host
def test_a_higher_threshold_and_a_higher_ratio_each_give_a_smaller_mask(find, scene):
    samples, _ = scene()
    usual = find(samples)[0].mean()
    assert 0 < find(samples, threshold=0.8)[0].mean() < usual
    assert 0 < find(samples, ratio=5.0)[0].mean() < usual


@pytest.mark.one_host
def test_the_same_seed_gives_the_same_mask_and_another_seed_another(find, latent):
    first = find(latent)[1]
    assert torch.equal(find(latent)[1], first)
    assert not torch.equal(find(latent, seed=4)[1], first)


def test_every_draw_is_another_noise(find, latent):
    one, two = (find(latent, draws=draws)[1] for draws in (1, 2))
    assert not torch.allclose(one, two, atol=1e-2)


@pytest.mark.one_host
def test_neighbouring_seeds_share_no_draws(find, latent):
    """Or the means over many draws would be nearly the same for them."""
    mean, neighbour, other = (find(latent, seed=seed, draws=8)[1] for seed in (3, 4, 1000))
    assert (mean - neighbour).std() > 0.7 * (mean - other).std()


def test_equal_prompts_differ_nowhere(host, find, latent):
    mask, soft = find(latent, target=host.other_prompt("a cat"))
    assert not mask.any()
    assert not soft.any()


@pytest.mark.parametrize("size", [(16, 24), (17, 13), (9, 31)])
def test_a_latent_of_any_size_gets_a_mask_of_its_picture_s_size(find, make_latent, size):
    for found in find(make_latent(1, *size), draws=1):
        assert found.shape == (1, size[0] * 8, size[1] * 8)


@pytest.mark.one_host
def test_each_picture_of_a_batch_gets_its_own_mask(find, scene):
    scenes = [scene("cat", "grass"), scene("cat", "snow")]
    batch = torch.cat([samples for samples, _ in scenes])
    masks, soft = find(batch)
    assert masks.shape == (2, 256, 256)
    assert all(overlap(mask, truth[0]) > 0.6 for mask, (_, truth) in zip(masks, scenes, strict=True))
    torch.testing.assert_close(soft[:1], find(batch[:1])[1], atol=1e-3, rtol=1e-2)


def test_a_picture_taken_out_of_a_batch_keeps_its_noise(host, find, make_latent):
    batch = make_latent(2, 16, 16)
    second = host.nodes.LatentFromBatch().frombatch({"samples": batch}, 1, 1)[0]
    torch.testing.assert_close(find(None, latent_image=second)[1], find(batch)[1][1:], atol=1e-3, rtol=1e-2)


def test_a_noise_mask_plays_no_part(find, latent):
    masked = {"samples": latent, "noise_mask": torch.zeros(1, 128, 128)}
    assert torch.equal(find(latent)[1], find(None, latent_image=masked)[1])


def test_the_model_and_the_latent_stay_as_they_were(host, find, latent):
    before, options, source = host.k_sampler(latent), copy.deepcopy(host.model.model_options), latent.clone()
    find(latent)
    assert host.model.model_options == options
    assert torch.equal(latent, source)
    assert torch.equal(host.k_sampler(latent), before)


def test_the_noise_level_is_that_of_the_schedule_whatever_the_steps_and_both_prompts_share_a_call(host, find, latent):
    calls, watched = [], host.model.clone()

    def note(apply, args):
        calls.append((args["timestep"].tolist(), args["cond_or_uncond"]))
        return apply(args["input"], args["timestep"], **args["c"])

    watched.set_model_unet_function_wrapper(note)
    for denoise, steps in ((0.25, 2), (0.5, 3), (1.0, 2)):
        calls.clear()
        host.k_sampler(latent, model=watched, scheduler="sgm_uniform", steps=steps, denoise=denoise)
        levels, _ = calls[0]
        calls.clear()
        find(latent, model=watched, denoise=denoise)
        assert [level for level, _ in calls] == [pytest.approx(levels, rel=1e-5)] * 2
        assert all(sorted(prompts) == [0, 1] for _, prompts in calls)


def test_patches_of_the_model_take_part(host, find, latent):
    patched = host.model.clone()
    key, weight = next(
        (key, weight) for key, weight in patched.model.state_dict().items() if key.endswith("attn2.to_k.weight")
    )
    patched.add_patches({key: (torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)),)})
    usual = find(latent)[1]
    assert not torch.allclose(find(latent, model=patched)[1], usual, atol=1e-2)
    assert torch.equal(find(latent)[1], usual)


def test_a_model_without_unet_works_too(transformer_model, find, make_latent):
    generator = torch.Generator().manual_seed(0)
    for parameter in transformer_model.model.diffusion_model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    source, target = (
        [[torch.randn(1, 5, 8, generator=generator), {"pooled_output": torch.randn(1, 8, generator=generator)}]]
        for _ in range(2)
    )
    mask, soft = find(make_latent(1, 16, 16, 16), model=transformer_model, source=source, target=target)
    assert mask.shape == soft.shape == (1, 128, 128)
    assert 0 < soft.min() < soft.max() <= 1


def test_an_inpainting_model_works_too(inpainting_model, find, latent):
    mask, _ = find(latent, model=inpainting_model)
    assert 0 < mask.mean() < 1


def test_the_progress_bar_advances_with_every_draw(find, latent):
    import comfy.utils

    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *args, **kwargs: seen.append((value, total)))
    try:
        find(latent, draws=3)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    # the host may leave out some that come too soon one after the other
    assert seen == sorted(set(seen))
    assert seen[0] == (1, 3)
    assert seen[-1] == (3, 3)


def test_cancelling_stops_it_before_the_next_draw_and_leaves_nothing_behind(host, find, latent):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    usual, cancelled, calls = find(latent)[1], host.model.clone(), []

    def cancel(apply, args):
        calls.append(args)
        interrupt_current_processing(True)
        return apply(args["input"], args["timestep"], **args["c"])

    cancelled.set_model_unet_function_wrapper(cancel)
    with pytest.raises(InterruptProcessingException):
        find(latent, model=cancelled)
    assert len(calls) == 1
    assert torch.equal(find(latent)[1], usual)


def test_a_latent_of_another_model_names_both_channel_counts(find, make_latent):
    with pytest.raises(ValueError, match="16 channels and the model needs 4: encode the picture with the VAE"):
        find(make_latent(1, 16, 16, 16))


def test_a_video_latent_is_refused(find):
    with pytest.raises(ValueError, match="must be of pictures"):
        find(torch.zeros(1, 4, 3, 16, 16))


def test_no_noise_is_refused_by_the_name_of_the_input(find, latent):
    with pytest.raises(ValueError, match=r"denoise must be from 0.01 to 1.0, not 0.0"):
        find(latent, denoise=0.0)
