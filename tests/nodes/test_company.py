"""Together with what others do to the same model and the same conditionings, in either order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

STEPS = 4


def extra(name, *arguments, **inputs):
    """What a node of the host gives, whichever way it is written."""
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS.get(name) or _from_extras(name)
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    result = run(*arguments, **inputs)
    return getattr(result, "result", result)[0]


def _from_extras(name):
    import importlib

    module = importlib.import_module(f"comfy_extras.{EXTRAS[name]}")
    old = getattr(module, "NODE_CLASS_MAPPINGS", {})
    return old[name] if name in old else getattr(module, CLASSES.get(name, name))


EXTRAS = {
    "TomePatchModel": "nodes_tomesd", "HyperTile": "nodes_hypertile", "FreeU": "nodes_freelunch",
    "FreeU_V2": "nodes_freelunch", "PerturbedAttentionGuidance": "nodes_pag", "SelfAttentionGuidance": "nodes_sag",
    "RescaleCFG": "nodes_model_advanced", "ModelSamplingDiscrete": "nodes_model_advanced",
    "DifferentialDiffusion": "nodes_differential_diffusion", "EasyCache": "nodes_easycache",
    "LazyCache": "nodes_easycache", "ConditioningSetDefaultCombine": "nodes_hooks",
    "ConditioningSetProperties": "nodes_hooks",
}  # fmt: skip
CLASSES = {"EasyCache": "EasyCacheNode", "LazyCache": "LazyCacheNode"}


def patched(change):
    """A row that changes a clone of the model."""

    def apply(model):
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

    def apply(model):
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


def lora(model):
    """Weights as a LoRA loader adds them."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora_weights(model), 0.8, 0.0)[0]


def lora_weights(model):
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, value in model.model.state_dict().items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_q.weight", "attn1.to_v.weight")):
            layer = name.removesuffix(".weight")
            weights[f"{layer}.lora_up.weight"] = torch.randn(value.shape[0], 4, generator=generator) * 0.2
            weights[f"{layer}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=generator) * 0.2
    assert weights
    return weights


def wrapped(model):
    def wrapper(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) * 0.9

    model.set_model_unet_function_wrapper(wrapper)


ROWS: dict[str, Callable[[Any], Any]] = {
    "a replaced attn2": patched(lambda model: model.set_model_attn2_replace(weaker, "input", 3)),
    "a replaced attn2 of one transformer": patched(
        lambda model: model.set_model_attn2_replace(weaker, "input", 3, 0)
    ),
    "a replaced attn2 that is not read": patched(lambda model: model.set_model_attn2_replace(weaker, "input", 5)),
    "a replaced attn1": patched(lambda model: model.set_model_attn1_replace(weaker, "input", 3)),
    "an adapter": adapter(0.1),
    "two adapters": lambda model: adapter(0.1)(adapter(0.05)(model)),
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
    "a LoRA and clones": lambda model: lora(model.clone()).clone(),
    "a model wrapper": patched(wrapped),
    "HyperTile": lambda model: extra("HyperTile", model, 32, 2, 1, False),
    "FreeU": lambda model: extra("FreeU", model, 1.3, 1.4, 0.9, 0.2),
    "FreeU V2": lambda model: extra("FreeU_V2", model, 1.3, 1.4, 0.9, 0.2),
    "PAG": lambda model: extra("PerturbedAttentionGuidance", model, 3.0),
    "SAG": lambda model: extra("SelfAttentionGuidance", model, 0.5, 2.0),
    "PAG and SAG": lambda model: ROWS["SAG"](ROWS["PAG"](model)),
    "RescaleCFG": lambda model: extra("RescaleCFG", model, 0.7),
    "ModelSamplingDiscrete": lambda model: extra("ModelSamplingDiscrete", model, "v_prediction", True),
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
            samples_without_us[name] = sample(ROWS[name](host.model) if name else host.model)
        return samples_without_us[name]

    return run


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", ROWS)
def test_it_acts_as_without_us_and_the_instant_mask_works(host, latent, sample, alone, name, order):
    row = ROWS[name]
    assert not torch.equal(alone(name), alone())
    for mask in (torch.ones(1, 8, 8), None):
        model = row(host.model) if order == "before" else host.model
        model, _, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent}, mask=mask)
        samples = sample(row(model) if order == "after" else model)
        assert len(attention.record.sigmas) == STEPS
        if mask is not None:
            assert torch.equal(samples, alone(name))
        else:
            host.changed(samples, latent, attention)


@pytest.mark.parametrize("order", ["before", "after"])
def test_token_merging_in_the_layers_that_are_read(host, layout_model, latent, order):
    """On a U-Net with attention at the full size of the latent, where token merging acts and we read."""
    base = layout_model("sd1")
    alone = host.k_sampler(latent, model=merging(base))
    assert not torch.equal(alone, host.k_sampler(latent, model=base))
    for mask in (torch.ones(1, 8, 8), None):
        model = merging(base) if order == "before" else base
        model, _, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent}, mask=mask)
        samples = host.k_sampler(latent, model=merging(model) if order == "after" else model)
        assert attention.record.maps.shape[-2:] == (16, 16)
        assert len(attention.record.sigmas) == STEPS
        if mask is not None:
            assert torch.equal(samples, alone)
        else:
            host.changed(samples, latent, attention)


def merging(model):
    return extra("TomePatchModel", model, 0.5)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
def test_a_cache_still_skips_steps_and_the_others_are_recorded(host, latent, cache, order):
    def cached(model):
        return extra(cache, model, 3.0, 0.0, 1.0, False)

    calls = []

    def counted(apply_model, args):
        calls.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"])

    base = host.model.clone()
    base.set_model_unet_function_wrapper(counted)
    widgets = {"positive": host.prompt("a frog"), "steps": 8}
    alone = host.k_sampler(latent, model=cached(base), **widgets)
    without = len(calls)
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
    assert without


@pytest.fixture
def control_net(host):
    """A ControlNet with random weights for the embedded model, on the host's own classes."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management

    config = dict(host.model.model.model_config.unet_config)
    del config["out_channels"]
    config.update(hint_channels=3, operations=comfy.ops.manual_cast, device="cpu", dtype=torch.float32)
    config.update(num_heads=4, num_head_channels=-1)
    model = comfy.cldm.cldm.ControlNet(**config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return comfy.controlnet.ControlNet(model, load_device=comfy.model_management.get_torch_device())


@pytest.fixture
def conditionings(host, control_net, make_picture):
    """What the host's own nodes make of an edit prompt, by what a user would call it: positive and negative."""
    left = torch.zeros(1, 128, 128)
    left[..., :64] = 1
    edit, negative, other = host.prompt("a frog"), host.other_prompt(), host.other_prompt("the grass")

    def hooked(conditioning):
        import comfy.hooks

        hooks = comfy.hooks.create_hook_lora(lora_weights(host.model), 0.8, 0.0)
        return extra("ConditioningSetProperties", conditioning, 1.0, "default", hooks=hooks)

    def controlled(start, end):
        node = host.nodes.ControlNetApplyAdvanced()
        return node.apply_controlnet(edit, negative, control_net, make_picture(1, 128, 128), 0.8, start, end)[:2]

    def limited(start, end):
        return extra("ConditioningSetTimestepRange", edit, start, end)

    return {
        "a ControlNet": lambda: controlled(0.0, 1.0),
        "a ControlNet for some steps": lambda: controlled(0.0, 0.6),
        "a mask": lambda: (extra("ConditioningSetMask", edit, left, "default", 0.8), negative),
        "masked, with another prompt elsewhere": lambda: (
            extra(
                "ConditioningCombine",
                extra("ConditioningSetMask", edit, left, "default", 1.0),
                extra("ConditioningSetMask", other, 1 - left, "default", 1.0),
            ),
            negative,
        ),
        "combined with another prompt": lambda: (extra("ConditioningCombine", edit, other), negative),
        "combined with another prompt in an area": lambda: (
            extra("ConditioningCombine", edit, extra("ConditioningSetArea", other, 64, 128, 0, 64, 1.0)), negative,
        ),
        "an area that is the picture": lambda: (extra("ConditioningSetArea", edit, 128, 512, 0, 0, 0.7), negative),
        "a negative prompt in an area": lambda: (edit, extra("ConditioningSetArea", other, 64, 64, 64, 0, 1.0)),
        "averaged with another prompt": lambda: (
            host.nodes.ConditioningAverage().addWeighted(edit, other, 0.7)[0], negative
        ),
        "a LoRA hook on the edit prompt": lambda: (hooked(edit), negative),
        "LoRA hooks on both": lambda: (hooked(edit), hooked(negative)),
        "a default for the rest": lambda: (
            extra(
                "ConditioningSetDefaultCombine", extra("ConditioningSetMask", edit, left, "default", 1.0), other
            ),
            negative,
        ),
        "two ranges of steps": lambda: (
            extra("ConditioningCombine", limited(0.0, 0.5), limited(0.5, 1.0)), negative
        ),
    }  # fmt: skip


CONDITIONINGS = [
    "a ControlNet", "a ControlNet for some steps", "a mask", "masked, with another prompt elsewhere",
    "combined with another prompt", "combined with another prompt in an area", "an area that is the picture",
    "a negative prompt in an area", "averaged with another prompt", "a LoRA hook on the edit prompt",
    "LoRA hooks on both", "a default for the rest", "two ranges of steps",
]  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_regional_and_controlled_conditionings_act_as_without_us_and_make_masks(host, latent, conditionings, name):
    positive, negative = conditionings[name]()
    inputs = {"positive": positive, "negative": negative}
    samples, attention = host.capture(latent, **inputs)
    assert torch.equal(samples, host.k_sampler(latent, **inputs))
    if name != "two ranges of steps":
        assert not torch.equal(samples, host.k_sampler(latent))
    assert len(attention.sigmas) == STEPS
    assert attention.words.texts == ("a", "frog")
    samples, _, attention = host.edit(latent, **inputs)
    host.changed(samples, latent, attention)


def test_what_another_prompt_says_elsewhere_is_not_recorded(host, latent, conditionings):
    """Only the edit prompt's attention makes the mask, however many prompts are sampled with it."""
    positive, _ = conditionings["masked, with another prompt elsewhere"]()
    first = host.capture(latent, positive=positive, steps=1)[1]
    alone = host.capture(latent, steps=1)[1]
    torch.testing.assert_close(first.maps[0], alone.maps[0], atol=2e-3, rtol=1e-2)


def test_steps_without_the_edit_prompt_are_not_recorded_and_keep_the_mask(host, latent):
    limited = extra("ConditioningSetTimestepRange", host.prompt("a frog"), 0.0, 0.7)
    rest = extra("ConditioningSetTimestepRange", host.other_prompt("the grass"), 0.7, 1.0)
    positive = extra("ConditioningCombine", limited, rest)
    samples, attention = host.capture(latent, positive=positive)
    assert torch.equal(samples, host.k_sampler(latent, positive=positive))
    assert 0 < len(attention.sigmas) < STEPS
    samples, _, attention = host.edit(latent, positive=positive)
    host.changed(samples, latent, attention)


def test_an_edit_prompt_that_no_step_samples_is_refused(host, latent):
    positive = extra("ConditioningSetTimestepRange", host.prompt("a frog"), 0.0, 0.01)
    with pytest.raises(ValueError, match="limited to steps that were not sampled"):
        host.edit(latent, positive=positive)


@pytest.mark.parametrize(
    "limit",
    [
        lambda edit: extra("ConditioningSetArea", edit, 64, 128, 0, 64, 1.0),
        lambda edit: extra("ConditioningSetAreaPercentage", edit, 0.5, 1.0, 0.25, 0.0, 1.0),
        lambda edit: extra("ConditioningSetMask", edit, torch.eye(4)[None, :2], "mask bounds", 1.0),
    ],
)
@pytest.mark.parametrize("node", ["edit", "capture"])
def test_an_edit_prompt_in_an_area_is_refused_before_sampling_with_the_remedy(host, latent, node, limit):
    positive = extra("ConditioningCombine", limit(host.prompt("a frog")), host.other_prompt("the grass"))
    calls = []
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: calls.append(1))
    with pytest.raises(ValueError, match=r"limited to an area.*Conditioning \(Set Mask\).*'default' instead"):
        getattr(host, node)(latent, model=model, positive=positive)
    assert not calls


def test_attention_that_another_node_switches_off_is_named(host, latent):
    """A node that puts its own call in place of the whole model leaves nothing to read."""
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: args["input"] * 0)
    with pytest.raises(ValueError, match="never attended to the edit prompt: its cross-attention was switched off"):
        host.edit(latent, model=model)


@pytest.fixture
def user_mask():
    """A mask of the user's on the latent, soft: a ramp from left to right."""
    return torch.linspace(0, 1, 128).expand(1, 1, 128, 128)


@pytest.mark.parametrize("differential", [False, True])
def test_the_instant_mask_works_inside_a_denoise_mask(host, latent, user_mask, differential):
    source = {"samples": latent, "noise_mask": user_mask}
    model = extra("DifferentialDiffusion", host.model) if differential else host.model
    plain = host.nodes.KSampler().sample(**host.sampling(latent, model=model, latent_image=source))[0]["samples"]
    assert not torch.equal(plain, host.k_sampler(latent))
    ones, *_ = host.edit(latent, model=model, latent_image=source, mask=torch.ones(1, 8, 8))
    assert torch.equal(ones, plain)
    assert torch.equal(host.capture(latent, model=model, latent_image=source)[0], plain)
    samples, _, attention = host.edit(latent, model=model, latent_image=source)
    changed = (samples != latent).any(1)
    assert 0 < changed.float().mean() < 1
    assert changed.float().mean() < (plain != latent).any(1).float().mean()
    assert len(attention.sigmas) == STEPS


def test_differential_diffusion_may_come_after_ours(host, latent, user_mask):
    source = {"samples": latent, "noise_mask": user_mask}
    ours, _, attention = host.run(
        "InstDiffMaskGuidance", model=host.model, latent=source, mask=torch.ones(1, 8, 8)
    )  # fmt: skip
    after = extra("DifferentialDiffusion", ours)
    plain = {"latent_image": source, "model": extra("DifferentialDiffusion", host.model)}
    assert torch.equal(host.k_sampler(latent, model=after, latent_image=source), host.k_sampler(latent, **plain))
    assert len(attention.record.sigmas) == STEPS


def test_an_edit_stays_within_a_hard_denoise_mask(host, latent):
    given = torch.zeros(1, 1, 128, 128)
    given[..., :64] = 1
    source = {"samples": latent, "noise_mask": given}
    samples = host.edit(latent, latent_image=source)[0]
    changed = (samples != latent).any(1)
    assert 0 < changed[..., :8].float().mean() < 1
    torch.testing.assert_close(samples[..., 8:], latent[..., 8:], atol=1e-4, rtol=1e-4)


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
