"""Together with what others do to the same prompts: ControlNets, masks, areas, hooks, ranges of steps."""

import pytest
import torch

STEPS = 4


@pytest.fixture
def conditionings(host, control_net, make_picture):
    """What the host's own nodes make of an edit prompt, by what a user would call it: positive and negative."""
    left = torch.zeros(1, 128, 128)
    left[..., :64] = 1
    edit, negative, other = host.prompt("a frog"), host.other_prompt(), host.other_prompt("the grass")

    def hooked(conditioning):
        import comfy.hooks

        hooks = comfy.hooks.create_hook_lora(host.lora_weights(), 0.8, 0.0)
        return host.extra("ConditioningSetProperties", conditioning, 1.0, "default", hooks=hooks)

    def controlled(start, end):
        node = host.nodes.ControlNetApplyAdvanced()
        return node.apply_controlnet(edit, negative, control_net, make_picture(1, 128, 128), 0.8, start, end)[:2]

    def limited(start, end):
        return host.extra("ConditioningSetTimestepRange", edit, start, end)

    return {
        "a ControlNet": lambda: controlled(0.0, 1.0),
        "a ControlNet for some steps": lambda: controlled(0.0, 0.6),
        "a mask": lambda: (host.extra("ConditioningSetMask", edit, left, "default", 0.8), negative),
        "masked, with another prompt elsewhere": lambda: (
            host.extra(
                "ConditioningCombine",
                host.extra("ConditioningSetMask", edit, left, "default", 1.0),
                host.extra("ConditioningSetMask", other, 1 - left, "default", 1.0),
            ),
            negative,
        ),
        "combined with another prompt": lambda: (host.extra("ConditioningCombine", edit, other), negative),
        "combined with another prompt in an area": lambda: (
            host.extra("ConditioningCombine", edit, host.extra("ConditioningSetArea", other, 64, 128, 0, 64, 1.0)),
            negative,
        ),
        "an area that is the picture": lambda: (host.extra("ConditioningSetArea", edit, 128, 512, 0, 0, 0.7), negative),
        "a negative prompt in an area": lambda: (edit, host.extra("ConditioningSetArea", other, 64, 64, 64, 0, 1.0)),
        "averaged with another prompt": lambda: (
            host.nodes.ConditioningAverage().addWeighted(edit, other, 0.7)[0], negative
        ),
        "a LoRA hook on the edit prompt": lambda: (hooked(edit), negative),
        "LoRA hooks on both": lambda: (hooked(edit), hooked(negative)),
        "a default for the rest": lambda: (
            host.extra(
                "ConditioningSetDefaultCombine", host.extra("ConditioningSetMask", edit, left, "default", 1.0), other
            ),
            negative,
        ),
        "two ranges of steps": lambda: (
            host.extra("ConditioningCombine", limited(0.0, 0.5), limited(0.5, 1.0)), negative
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
    limited = host.extra("ConditioningSetTimestepRange", host.prompt("a frog"), 0.0, 0.7)
    rest = host.extra("ConditioningSetTimestepRange", host.other_prompt("the grass"), 0.7, 1.0)
    positive = host.extra("ConditioningCombine", limited, rest)
    samples, attention = host.capture(latent, positive=positive)
    assert torch.equal(samples, host.k_sampler(latent, positive=positive))
    assert 0 < len(attention.sigmas) < STEPS
    samples, _, attention = host.edit(latent, positive=positive)
    host.changed(samples, latent, attention)


def test_an_edit_prompt_that_no_step_samples_is_refused(host, latent):
    positive = host.extra("ConditioningSetTimestepRange", host.prompt("a frog"), 0.0, 0.01)
    with pytest.raises(ValueError, match="limited to steps that were not sampled"):
        host.edit(latent, positive=positive)


@pytest.mark.parametrize(
    "limit",
    [
        lambda host, edit: host.extra("ConditioningSetArea", edit, 64, 128, 0, 64, 1.0),
        lambda host, edit: host.extra("ConditioningSetAreaPercentage", edit, 0.5, 1.0, 0.25, 0.0, 1.0),
        lambda host, edit: host.extra("ConditioningSetMask", edit, torch.eye(4)[None, :2], "mask bounds", 1.0),
    ],
)
@pytest.mark.parametrize("node", ["edit", "capture"])
def test_an_edit_prompt_in_an_area_is_refused_before_sampling_with_the_remedy(host, latent, node, limit):
    positive = host.extra("ConditioningCombine", limit(host, host.prompt("a frog")), host.other_prompt("the grass"))
    calls = []
    model = host.model.clone()
    model.set_model_unet_function_wrapper(lambda apply_model, args: calls.append(1))
    with pytest.raises(ValueError, match=r"limited to an area.*Conditioning \(Set Mask\).*'default' instead"):
        getattr(host, node)(latent, model=model, positive=positive)
    assert not calls
