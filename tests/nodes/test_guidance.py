"""Instant Mask Guidance: the instant mask in anybody's own sampler."""

import pytest
import torch


def guided(host, latent, **inputs):
    """Model, latent and attention out of the node."""
    return host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, **inputs)


def samplers():
    from comfy.samplers import KSampler

    return KSampler.SAMPLERS


def left_half(latent):
    mask = torch.zeros(1, latent.shape[-2] * 8, latent.shape[-1] * 8)
    mask[..., : mask.shape[-1] // 2] = 1
    return mask


def extra(name):
    """A node of the host's custom sampling."""
    from comfy_extras import nodes_custom_sampler

    return getattr(nodes_custom_sampler, name)


def result(node, *arguments, **inputs):
    """What a node of the host gives back, old style or new."""
    if hasattr(node, "execute"):
        return node.execute(*arguments, **inputs).result
    return getattr(node(), node.FUNCTION)(*arguments, **inputs)


def test_with_a_ksampler_it_is_masked_sampler(host, latent):
    model, passed, attention = guided(host, latent)
    samples = host.k_sampler(passed["samples"], model=model, positive=host.prompt("a frog"))
    edited, mask, record = host.edit(latent, positive=host.prompt("a frog"))
    assert torch.equal(samples, edited)
    refined, *_ = host.run("InstDiffRefineMask", attention=attention, sampled={"samples": samples})
    assert torch.equal(refined, mask)
    assert torch.equal(attention.record.maps, record.maps)


def problems(names, run):
    """What is wrong for which name, so that one name does not hide the next."""
    found = {}
    for name in names:
        try:
            run(name)
        except Exception as error:
            found[name] = repr(error)
    return found


def test_every_sampler_keeps_what_is_outside_the_mask_and_changes_what_is_inside(host, make_latent):
    from comfy.samplers import KSampler

    latent = make_latent(1, 8, 8)

    def run(name):
        model, passed, _ = guided(host, latent, mask=left_half(latent))
        samples = host.k_sampler(
            passed["samples"], model=model, sampler_name=name, steps=3, positive=host.prompt("a frog")
        )
        assert torch.equal(samples[..., 4:], latent[..., 4:])
        assert not torch.equal(samples[..., :4], latent[..., :4])
        assert samples.isfinite().all()

    assert not problems(KSampler.SAMPLERS, run)


@pytest.mark.one_host
def test_with_a_mask_of_everything_every_sampler_gives_what_it_gives_without_us(host, make_latent):
    from comfy.samplers import KSampler

    latent = make_latent(1, 8, 8)

    def run(name):
        model, passed, _ = guided(host, latent, mask=torch.ones(1, 8, 8))
        widgets = {"sampler_name": name, "steps": 3, "positive": host.prompt("a frog")}
        # seeded: some samplers draw from torch's own generator
        torch.manual_seed(0)
        plain = host.k_sampler(latent, **widgets)
        torch.manual_seed(0)
        assert torch.equal(host.k_sampler(passed["samples"], model=model, **widgets), plain)

    assert not problems(KSampler.SAMPLERS, run)


@pytest.mark.one_host
def test_every_scheduler_finds_a_mask_and_keeps_the_rest(host, latent):
    from comfy.samplers import KSampler

    def run(name):
        model, passed, attention = guided(host, latent)
        samples = host.k_sampler(passed["samples"], model=model, scheduler=name, positive=host.prompt("a frog"))
        kept = (samples == latent).all(1)
        assert 0 < kept.float().mean() < 1
        assert attention.record.maps.isfinite().all()

    assert not problems(KSampler.SCHEDULERS, run)


def test_two_advanced_samplers_share_the_steps_and_keep_what_is_outside(host, latent):
    """KSampler Advanced: the first half leaves its noise, the second goes on with it."""
    model, passed, _ = guided(host, latent, mask=left_half(latent))
    common = {"noise_seed": 3, "steps": 8, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    common |= {"positive": host.prompt("a frog"), "negative": host.other_prompt()}
    sampler = host.nodes.KSamplerAdvanced()
    half = sampler.sample(
        model=model, latent_image=passed, add_noise="enable", start_at_step=3, end_at_step=6,
        return_with_leftover_noise="enable", **common,
    )[0]  # fmt: skip
    assert not torch.equal(half["samples"][..., 8:], latent[..., 8:])
    whole = sampler.sample(
        model=model, latent_image=half, add_noise="disable", start_at_step=6, end_at_step=10000,
        return_with_leftover_noise="disable", **common,
    )[0]  # fmt: skip
    assert torch.equal(whole["samples"][..., 8:], latent[..., 8:])
    assert not torch.equal(whole["samples"][..., :8], latent[..., :8])
    at_once = sampler.sample(
        model=model, latent_image=passed, add_noise="enable", start_at_step=3, end_at_step=10000,
        return_with_leftover_noise="disable", **common,
    )[0]  # fmt: skip
    torch.testing.assert_close(whole["samples"], at_once["samples"], atol=1e-3, rtol=1e-3)


def guiders(host, model):
    positive, negative = host.prompt("a frog"), host.other_prompt()
    return {
        "CFGGuider": {"model": model, "positive": positive, "negative": negative, "cfg": 5.0},
        "BasicGuider": {"model": model, "conditioning": positive},
        "DualCFGGuider": {
            "model": model, "cond1": positive, "cond2": host.other_prompt("grass"), "negative": negative,
            "cfg_conds": 5.0, "cfg_cond2_negative": 3.0, "style": "regular",
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", ["CFGGuider", "BasicGuider", "DualCFGGuider"])
def test_custom_sampling_works_with_every_guider(host, latent, name):
    model, passed, attention = guided(host, latent)
    (sampler,) = result(extra("KSamplerSelect"), sampler_name="euler")
    (sigmas,) = result(extra("BasicScheduler"), model=host.model, scheduler="normal", steps=5, denoise=0.6)
    (noise,) = result(extra("RandomNoise"), noise_seed=3)
    outputs = {}
    for which, used in (("plain", host.model), ("guided", model)):
        arguments = guiders(host, used)[name]
        if name == "DualCFGGuider" and "style" not in str(extra(name).INPUT_TYPES()):
            arguments.pop("style")
        (guider,) = result(extra(name), **arguments)
        outputs[which] = result(
            extra("SamplerCustomAdvanced"), noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
            latent_image=passed,
        )[0]["samples"]  # fmt: skip
    kept = (outputs["guided"] == latent).all(1)
    assert 0 < kept.float().mean() < 1
    assert not (outputs["plain"] == latent).all(1).any()
    assert len(attention.record.sigmas) == 5


def test_sampler_custom_is_what_a_ksampler_is(host, latent):
    model, passed, _ = guided(host, latent)
    positive = host.prompt("a frog")
    (sampler,) = result(extra("KSamplerSelect"), sampler_name="euler")
    (sigmas,) = result(extra("BasicScheduler"), model=host.model, scheduler="normal", steps=4, denoise=0.6)
    samples = result(
        extra("SamplerCustom"), model=model, add_noise=True, noise_seed=3, cfg=5.0, positive=positive,
        negative=host.other_prompt(), sampler=sampler, sigmas=sigmas, latent_image=passed,
    )[0]["samples"]  # fmt: skip
    assert torch.equal(samples, host.k_sampler(latent, model=model, positive=positive))


def test_any_encoders_prompt_works_with_its_clip_and_text(host, latent):
    plain = host.other_prompt("a frog")
    model, passed, attention = guided(host, latent, clip=host.clip, text="a frog")
    samples = host.k_sampler(passed["samples"], model=model, positive=plain)
    assert attention.record.words.texts == ("a", "frog")
    assert torch.equal(samples, host.edit(latent, positive=host.prompt("a frog"))[0])
    assert torch.equal(samples, host.edit(latent, positive=plain, clip=host.clip, text="a frog")[0])


def test_clip_without_text_is_refused(host, latent):
    with pytest.raises(ValueError, match="clip and text belong together"):
        guided(host, latent, clip=host.clip)


def test_a_prompt_without_words_is_refused_when_it_is_sampled(host, latent):
    model, passed, _ = guided(host, latent)
    with pytest.raises(ValueError, match="carries no words"):
        host.k_sampler(passed["samples"], model=model, positive=host.other_prompt("a frog"))


def test_a_latent_of_another_size_is_refused(host, latent, make_latent):
    model, _, _ = guided(host, latent)
    with pytest.raises(ValueError, match="give the sampler the LATENT that comes out of Instant Mask Guidance"):
        host.k_sampler(make_latent(1, 24, 16), model=model, positive=host.prompt("a frog"))


def test_attention_before_any_sampling_says_what_to_connect(host, latent):
    _, _, attention = guided(host, latent)
    with pytest.raises(ValueError, match="connect the sampler's LATENT"):
        host.run("InstDiffRefineMask", attention=attention)


def test_each_sampling_has_a_mask_of_its_own(host, latent):
    model, passed, _ = guided(host, latent)
    widgets = {"model": model, "positive": host.prompt("a frog")}
    first = host.k_sampler(passed["samples"], **widgets)
    host.k_sampler(passed["samples"], seed=9, **widgets)
    assert torch.equal(host.k_sampler(passed["samples"], **widgets), first)


def test_the_model_itself_samples_as_before(host, latent):
    before = host.k_sampler(latent)
    model, passed, _ = guided(host, latent)
    host.k_sampler(passed["samples"], model=model, positive=host.prompt("a frog"))
    assert torch.equal(host.k_sampler(latent), before)


def test_a_compiled_model_is_refused_with_the_remedy(host, latent):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    (compiled,) = result(TorchCompileModel, model=host.model, backend="inductor")
    model, passed, _ = guided(host, latent)
    (after,) = result(TorchCompileModel, model=model, backend="inductor")
    with pytest.raises(ValueError, match="leave TorchCompileModel out"):
        host.edit(latent, model=compiled)
    with pytest.raises(ValueError, match="leave TorchCompileModel out"):
        host.k_sampler(passed["samples"], model=after, positive=host.prompt("a frog"))
