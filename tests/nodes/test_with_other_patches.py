"""Together with what others do to the same model, before ours or after it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

STEPS = 4

ORDERS = ["before", pytest.param("after", marks=pytest.mark.one_host)]
"""Of the other node and ours."""


def patched(change):
    """A row that changes a clone of the model."""

    def apply(host, model):
        clone = model.clone()
        change(clone)
        return clone

    return apply


def weaker(q, k, v, options):
    """Another node's attention, as a replacement."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v * 0.3, options["n_heads"])


class Addable:
    """What the IPAdapter, InstantID and PuLID packs put at a layer: it is called, and later nodes `add` to it."""

    def __init__(self, callback):
        self.callbacks = [callback]

    def add(self, callback):
        self.callbacks.append(callback)

    def __call__(self, q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        for callback in self.callbacks:
            out = out + callback(out, q, options)
        return out


def adapter(strength):
    """A node of such a pack: at a layer that has an object already it adds to that, without asking what it is."""

    def apply(host, model):
        clone = model.clone()
        for key in [("input", 3), ("output", 2), ("middle", 0)]:
            options = clone.model_options["transformer_options"] = clone.model_options["transformer_options"].copy()
            replaced = options["patches_replace"] = options.get("patches_replace", {}).copy()
            layers = replaced["attn2"] = replaced.get("attn2", {}).copy()
            if key in layers:
                layers[key].add(lambda out, q, options: q * strength)
            else:
                layers[key] = Addable(lambda out, q, options: q * strength)
        return clone

    return apply


def overridden(model):
    def override(attend, *arguments, **options):
        return attend(*arguments, **options) * 0.7

    model.model_options["transformer_options"]["optimized_attention_override"] = override


def lora(host, model):
    """Weights as a LoRA loader adds them."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, host.lora_weights(), 0.8, 0.0)[0]


def wrapped(model):
    def wrapper(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9

    model.set_model_unet_function_wrapper(wrapper)


ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "a replaced attn2": patched(lambda model: model.set_model_attn2_replace(weaker, "input", 3)),
    "a replaced attn2 of one transformer": patched(
        lambda model: model.set_model_attn2_replace(weaker, "input", 3, 0)
    ),
    "a replaced attn2 of the other half": patched(lambda model: model.set_model_attn2_replace(weaker, "output", 2)),
    "a replaced attn2 that is not read": patched(lambda model: model.set_model_attn2_replace(weaker, "input", 5)),
    "a replaced attn1": patched(lambda model: model.set_model_attn1_replace(weaker, "input", 3)),
    "an adapter": adapter(0.1),
    "two adapters": lambda host, model: adapter(0.1)(host, adapter(0.05)(host, model)),
    "an attn2 patch": patched(
        lambda model: model.set_model_attn2_patch(lambda n, context, value, options: (n, context * 1.3, value))
    ),
    "an attn2 patch of other tokens": patched(
        lambda model: model.set_model_attn2_patch(lambda n, context, value, options: (n * 0.8, context, value * 0.5))
    ),
    "an attn2 output patch": patched(lambda model: model.set_model_attn2_output_patch(lambda n, options: n * 0.5)),
    "an attn1 output patch": patched(lambda model: model.set_model_attn1_output_patch(lambda n, options: n * 0.5)),
    "an attention override": patched(overridden),
    "a LoRA": lora,
    "a LoRA and clones": lambda host, model: lora(host, model.clone()).clone(),
    "a model wrapper": patched(wrapped),
    "HyperTile": lambda host, model: host.extra("HyperTile", model, 32, 2, 1, False),
    "FreeU": lambda host, model: host.extra("FreeU", model, 1.3, 1.4, 0.9, 0.2),
    "FreeU V2": lambda host, model: host.extra("FreeU_V2", model, 1.3, 1.4, 0.9, 0.2),
    "PAG": lambda host, model: host.extra("PerturbedAttentionGuidance", model, 3.0),
    "SAG": lambda host, model: host.extra("SelfAttentionGuidance", model, 0.5, 2.0),
    "PAG and SAG": lambda host, model: ROWS["SAG"](host, ROWS["PAG"](host, model)),
    "RescaleCFG": lambda host, model: host.extra("RescaleCFG", model, 0.7),
    "ModelSamplingDiscrete": lambda host, model: host.extra("ModelSamplingDiscrete", model, "v_prediction", True),
    "a CFG function": patched(
        lambda model: model.set_model_sampler_cfg_function(lambda args: args["cond"] * 2 - args["uncond"])
    ),
    "a pre-CFG function": patched(
        lambda model: model.set_model_sampler_pre_cfg_function(lambda args: [out * 0.9 for out in args["conds_out"]])
    ),
    "a post-CFG function": patched(
        lambda model: model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9)
    ),
}  # fmt: skip
"""What others do to a model. Each of them must show in the samples, or the tests below say nothing."""


@pytest.fixture(scope="module")
def samples_without_us():
    return {}


@pytest.fixture
def sample(host, latent):
    """KSampler with an edit prompt."""
    return lambda model: host.k_sampler(latent, model=model)


@pytest.fixture
def alone(samples_without_us, sample, host):
    """``alone(name)``: what KSampler makes of the row's model, or of the model itself."""

    def run(name=None):
        if name not in samples_without_us:
            samples_without_us[name] = sample(ROWS[name](host, host.model) if name else host.model)
        return samples_without_us[name]

    return run


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ROWS)
def test_it_acts_as_without_us_and_the_instant_mask_works(host, latent, sample, alone, name, order):
    row = ROWS[name]
    assert not torch.equal(alone(name), alone())
    for mask in (torch.ones(1, 8, 8), None):
        model = row(host, host.model) if order == "before" else host.model
        model, _, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent}, mask=mask)
        samples = sample(row(host, model) if order == "after" else model)
        assert len(attention.record.sigmas) == STEPS
        if mask is not None:
            assert torch.equal(samples, alone(name))
        else:
            host.changed(samples, latent, attention)


@pytest.mark.parametrize("order", ORDERS)
def test_token_merging_in_the_layers_that_are_read(host, layout_model, latent, order):
    """On a U-Net with attention at the full size of the latent, where token merging acts and we read."""
    base = layout_model("sd1")
    alone = host.k_sampler(latent, model=merging(host, base))
    assert not torch.equal(alone, host.k_sampler(latent, model=base))
    for mask in (torch.ones(1, 8, 8), None):
        model = merging(host, base) if order == "before" else base
        model, _, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent}, mask=mask)
        samples = host.k_sampler(latent, model=merging(host, model) if order == "after" else model)
        assert attention.record.maps.shape[-2:] == (16, 16)
        assert len(attention.record.sigmas) == STEPS
        if mask is not None:
            assert torch.equal(samples, alone)
        else:
            host.changed(samples, latent, attention)


def merging(host, model):
    return host.extra("TomePatchModel", model, 0.5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_a_cache_still_skips_steps_and_the_others_are_recorded(host, latent, cache, order):
    def cached(model):
        return host.extra(f"{cache}Node", model, 3.0, 0.0, 1.0, False)

    base, widgets = host.model, {"positive": host.prompt("a frog"), "steps": 8}
    alone = host.k_sampler(latent, model=cached(base), **widgets)
    for mask in (torch.ones(1, 8, 8), None):
        model = cached(base) if order == "before" else base
        model, _, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent}, mask=mask)
        model = cached(model) if order == "after" else model
        samples = host.k_sampler(latent, model=model, **widgets)
        assert 0 < len(attention.record.sigmas) < 8
        if mask is not None:
            assert torch.equal(samples, alone)
        else:
            host.changed(samples, latent, attention)
    assert not torch.equal(alone, host.k_sampler(latent, **widgets))


def test_attention_that_another_node_switches_off_is_named(host, latent):
    """A node that puts its own call in place of the whole model leaves nothing to read."""
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: args["input"] * 0)
    with pytest.raises(ValueError, match="never attended to the edit prompt 'a frog': its cross-attention was"):
        host.edit(latent, model=model)


def test_two_guided_models_in_one_graph_have_a_record_each(host, latent, make_latent):
    other = make_latent(1, 24, 16)
    first, _, first_attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    second, _, second_attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": other})
    frog, dog = host.prompt("a frog"), host.prompt("a dog on the grass")
    samples = host.k_sampler(latent, model=first, positive=frog)
    others = host.k_sampler(other, model=second, positive=dog)
    assert torch.equal(samples, host.edit(latent, positive=frog)[0])
    assert torch.equal(others, host.edit(other, positive=dog)[0])
    assert first_attention.record.words.texts == ("a", "frog")
    assert second_attention.record.words.texts == ("a", "dog", "on", "the", "grass")
    assert second_attention.record.latent_size == (24, 16)


def test_the_same_model_sampled_unguided_in_between_is_as_if_we_were_not_there(host, latent):
    plain = host.k_sampler(latent)
    guided, _, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    first = host.k_sampler(latent, model=guided)
    record = attention.record
    assert torch.equal(host.k_sampler(latent), plain)
    assert attention.record is record
    assert torch.equal(host.k_sampler(latent, model=guided), first)


def test_a_guided_model_may_be_guided_again(host, latent):
    """Masked Sampler on the model of Instant Mask Guidance: both keep what is outside their masks."""
    left, top = torch.zeros(1, 128, 128), torch.zeros(1, 128, 128)
    left[..., :64] = 1
    top[:, :64] = 1
    model, _, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, mask=left)
    samples, mask, record = host.edit(latent, model=model, mask=top)
    assert torch.equal(mask, top)
    inside = (left * top)[:, None, ::8, ::8].bool().expand_as(latent)
    assert torch.equal(samples[~inside], latent[~inside])
    assert not torch.equal(samples[inside], latent[inside])
    assert len(attention.record.sigmas) == len(record.sigmas) == STEPS


def test_two_masks_that_are_found_in_one_sampling_keep_what_is_outside_both(host, latent):
    first, _, one = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    both, _, two = host.run("InstDiffMaskGuidance", model=first, latent={"samples": latent})
    samples = host.k_sampler(latent, model=both, steps=2)
    changed = (samples != latent).any(1)
    assert 0 < changed.float().mean() < 1
    assert [len(attention.record.sigmas) for attention in (one, two)] == [2, 2]


def test_a_guided_model_says_nothing_of_a_difference(host, latent):
    model, *_ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    prompts = {"source": host.prompt("a cat"), "target": host.prompt("a frog")}
    with pytest.raises(ValueError, match="a mask already: connect the model that goes into Instant Mask Guidance"):
        host.run("InstDiffDiffEditMask", model=model, latent_image={"samples": latent}, draws=1, **prompts)
