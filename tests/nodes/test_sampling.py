"""What our samplers have in common with KSampler: everything, but for the mask."""

import pytest
import torch

SAMPLERS = ["euler", *(pytest.param(name, marks=pytest.mark.one_host) for name in ("heun", "euler_ancestral"))]
"""One call in a step, two, and one with further noise; test_guidance.py has every sampler."""


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return {"sampler_name": request.param}


def test_a_mask_of_all_ones_is_k_sampler_bit_for_bit(host, latent, sampler):
    samples, mask, _ = host.edit(latent, mask=torch.ones(1, 128, 128), **sampler)
    assert torch.equal(samples, host.k_sampler(latent, **sampler))
    assert mask.min() == 1


def test_an_instant_mask_of_all_ones_is_k_sampler_bit_for_bit(host, latent, sampler):
    samples, mask, _ = host.edit(latent, settings=host.settings(threshold=0.0), **sampler)
    assert torch.equal(samples, host.k_sampler(latent, **sampler))
    assert mask.min() == 1


def test_a_picture_of_a_batch_whose_mask_is_all_zeros_is_the_source_bit_for_bit(host, make_latent, sampler):
    latent, given = make_latent(2, 16, 16), torch.zeros(2, 128, 128)
    given[0] = 1
    samples, mask, _ = host.edit(latent, mask=given, **sampler)
    assert torch.equal(samples[1], latent[1])
    assert (samples[0] != latent[0]).any()
    assert torch.equal(mask, given)


def test_capture_attention_is_k_sampler_bit_for_bit(host, latent, sampler):
    samples, attention = host.capture(latent, **sampler)
    assert torch.equal(samples, host.k_sampler(latent, **sampler))
    assert attention.words.texts == ("a", "frog")


@pytest.mark.parametrize("changes", [{"cfg": 1.0}, {"denoise": 1.0}, {"scheduler": "karras"}])
def test_other_widgets_keep_capture_attention_equal_to_k_sampler(host, latent, changes):
    assert torch.equal(host.capture(latent, **changes)[0], host.k_sampler(latent, **changes))


def test_an_edit_keeps_the_source_outside_its_mask_and_changes_it_inside(host, latent):
    given = torch.zeros(1, 128, 128)
    given[:, 32:96, 40:80] = 1
    samples, mask, _ = host.edit(latent, mask=given)
    assert torch.equal(mask, given)
    inside = given[:, None, ::8, ::8].bool().expand_as(latent)
    assert torch.equal(samples[~inside], latent[~inside])
    assert (samples[inside] != latent[inside]).all()


def test_the_same_seed_gives_the_same_edit_and_another_seed_another(host, latent):
    first = host.edit(latent)[0]
    assert torch.equal(first, host.edit(latent)[0])
    assert not torch.equal(first, host.edit(latent, seed=4)[0])


def test_the_input_latent_and_model_stay_as_they_were(host, latent, snapshot):
    before, options, source = host.k_sampler(latent), snapshot(host.model), latent.clone()
    host.edit(latent)
    host.capture(latent)
    assert snapshot(host.model) == options
    assert torch.equal(latent, source)
    assert torch.equal(host.k_sampler(latent), before)


def test_retuning_with_the_settings_of_the_edit_gives_its_mask_again(host, latent):
    settings = host.settings(threshold=0.35, min_area=0.0)
    _, mask, attention = host.edit(latent, settings=settings)
    again, soft, report, _ = host.run("InstDiffRefineMask", attention=attention, settings=settings)
    assert torch.equal(again, mask)
    assert torch.equal(again, (soft >= 0.35).float())
    assert "frog" in report


def test_a_higher_threshold_gives_a_smaller_mask_without_sampling(host, latent):
    attention = host.capture(latent)[1]
    masks = [
        host.run("InstDiffRefineMask", attention=attention, settings=host.settings(threshold=value))[0]
        for value in (0.1, 0.5, 0.9)
    ]
    areas = [mask.mean() for mask in masks]
    assert areas[0] > areas[1] > areas[2] > 0


def test_the_named_words_make_the_mask(host, latent):
    attention = host.capture(latent, positive=host.prompt("a frog on the grass"))[1]
    for word in ("frog", "grass"):
        report = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words=word))[2]
        assert f"index word '{word}'" in report


def test_progress_reaches_the_host_from_the_first_step_to_the_last(host, latent, progress):
    seen = []
    progress(lambda value, total, preview, **kwargs: seen.append((value, total)))
    host.edit(latent)
    assert (seen[0], seen[-1]) == ((1, 4), (4, 4))
    assert seen == sorted(set(seen))


@pytest.fixture
def snapshot():
    """A model's options and patches, all containers copied and all functions by identity."""

    def copied(value):
        if isinstance(value, dict):
            return {key: copied(entry) for key, entry in value.items()}
        return [copied(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return lambda model: copied(
        [model.model_options, model.patches, model.object_patches, model.wrappers, model.callbacks, model.attachments]
    )


def test_a_prompt_that_fits_the_picture_leaves_it_bit_for_bit_and_says_so(host):
    latent, _ = host.scene("cat", "snow")
    samples, mask, attention = host.edit(latent, positive=host.prompt("a cat in the snow"), denoise=0.5)
    assert torch.equal(samples, latent)
    assert not mask.any()
    assert "nothing to change" in host.run("InstDiffRefineMask", attention=attention)[2]


def test_another_nodes_hooks_on_the_models_calls_are_not_called_outside_of_the_sampling(host):
    """Caches and the like may not bear it: then the whole background is taken for what is to change."""
    latent, truth = host.scene("cat", "snow")
    calls = []

    def count(executor, *arguments, **named):
        calls.append(1)
        return executor(*arguments, **named)

    model = host.model.clone()
    model.add_wrapper("diffusion_model", count)
    _, mask, _ = host.edit(latent, model=model, positive=host.prompt("a cat in the snow"), denoise=0.5)
    assert len(calls) == 4
    assert host.iou(mask, ~truth) > 0.75
