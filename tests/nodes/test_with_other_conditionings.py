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


def in_range(host, text, start, end):
    """An edit prompt that holds in a range of the noise alone: 0 is pure noise, 1 is none."""
    return host.extra("ConditioningSetTimestepRange", host.prompt(text), start, end)


@pytest.mark.parametrize("several", [False, True], ids=["alone", "one of several"])
@pytest.mark.parametrize("limits", [(0.0, 0.01), (0.45, 0.55)], ids=["before the first step", "between two steps"])
def test_an_edit_prompt_that_no_step_samples_is_refused_before_the_first(host, latent, limits, several):
    def fail(*_):
        raise AssertionError("the model was called")

    positive = in_range(host, "a red car", *limits)
    if several:
        positive = host.extra("ConditioningCombine", host.prompt("a frog"), positive)
    refused = pytest.raises(ValueError, match="'a red car' is limited to a range in which this sampling takes no step")
    with host.model.model.diffusion_model.register_forward_pre_hook(fail), refused:
        host.edit(latent, positive=positive)


def test_the_second_part_of_a_split_sampling_needs_no_step_of_a_prompt_that_the_first_has_seen(host, latent):
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    positive = host.extra("ConditioningCombine", in_range(host, "a frog", 0.0, 0.5), host.prompt("a red car"))
    for part in ({"end_at_step": 2, "return_with_leftover_noise": "enable"}, {"start_at_step": 2}):
        passed = host.nodes.KSamplerAdvanced().sample(
            **{
                "model": model, "noise_seed": 3, "steps": 4, "cfg": 5.0, "sampler_name": "euler",
                "scheduler": "simple", "positive": positive, "negative": host.other_prompt(), "latent_image": passed,
                "add_noise": "disable" if "start_at_step" in part else "enable", "start_at_step": 0,
                "end_at_step": 4, "return_with_leftover_noise": "disable",
            } | part
        )[0]  # fmt: skip
    edits = host.hooks.get_record(attention, passed).edits
    assert [len(edit.sigmas) for edit in edits] == [2, 4]


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
