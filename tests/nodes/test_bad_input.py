"""A mistake in a graph gets a message that says what is wrong and what to do."""

import pytest
import torch

SAMPLERS = ["edit", "capture"]


@pytest.fixture(params=SAMPLERS)
def node(request, host):
    return getattr(host, request.param)


def test_a_conditioning_without_words_names_the_node_to_use(host, node, latent):
    with pytest.raises(ValueError, match=r"carries no words.*Encode Edit Prompt"):
        node(latent, positive=host.other_prompt("a dog"))


def test_a_prompt_without_words_asks_for_some(host, node, latent):
    with pytest.raises(ValueError, match="holds no words: say what"):
        node(latent, positive=host.prompt("..."))


def test_several_edit_prompts_are_not_captured_since_nothing_tells_them_apart(host, latent):
    with pytest.raises(ValueError, match="several edit prompts, which a sampler mixes where nothing is edited"):
        host.capture(latent, positive=[*host.prompt("a dog"), *host.prompt("a cat on the grass")])


def test_a_concatenated_conditioning_says_not_to_concatenate(host, node, latent):
    longer = host.nodes.ConditioningConcat().concat(host.prompt("a dog"), host.other_prompt("on the grass"))[0]
    longer = host.nodes.ConditioningConcat().concat(longer, [[torch.zeros(1, 5, 192), {}]])[0]
    with pytest.raises(ValueError, match="encode the edit prompt again, and do not concatenate"):
        node(latent, positive=longer)


def test_a_latent_of_another_model_names_both_channel_counts(node, make_latent):
    with pytest.raises(ValueError, match="16 channels and the model needs 4: encode the picture with the VAE"):
        node(make_latent(1, 16, 16, 16))


def test_a_video_latent_is_refused(node):
    with pytest.raises(ValueError, match="must be of pictures"):
        node(torch.zeros(1, 4, 3, 16, 16))


def test_sampling_without_noise_is_refused_by_the_name_of_the_input(node, latent):
    with pytest.raises(ValueError, match=r"denoise must be from 0\.01 to 1\.0, not 0\.0"):
        node(latent, denoise=0.0)


def test_a_settings_word_that_is_not_in_the_prompt_lists_the_words_that_are(host, latent):
    with pytest.raises(ValueError, match="'cat' is not in the edit prompt: its words are a, frog"):
        host.edit(latent, settings=host.settings(words="cat"))


def test_retuning_with_a_word_that_is_not_in_the_prompt_lists_the_words_that_are(host, latent):
    attention = host.capture(latent)[1]
    with pytest.raises(ValueError, match="'cat' is not in the edit prompt: its words are a, frog"):
        host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words="cat"))


def test_a_model_that_cannot_be_read_names_the_models_that_work(node, make_latent, unreadable_model):
    with pytest.raises(ValueError, match=r"Load a model of one of these kinds: Stable Diffusion.*Flux"):
        node(make_latent(1, 16, 16), model=unreadable_model)


def test_a_missing_clip_says_where_to_get_one(host):
    with pytest.raises(ValueError, match=r"no CLIP: .*load one with a CLIP loader"):
        host.run("InstDiffEncodeEditPrompt", clip=None, text="a dog")


def test_an_edit_of_another_picture_is_refused_by_inpaint_finish(host, make_latent, make_picture):
    inputs = host.sampling(None) | {"vae": host.vae, "image": make_picture(1, 64, 64), "mask": torch.ones(1, 64, 64)}
    del inputs["latent_image"]
    with pytest.raises(ValueError, match="of different size: give Inpaint Finish the picture"):
        host.run("InstDiffInpaintFinish", **inputs, samples={"samples": make_latent(1, 16, 16)})


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_edit_prompt_is_refused_before_anything_runs(host, text):
    assert "empty: say what" in host.classes["InstDiffEncodeEditPrompt"].validate_inputs(text=text)


def test_limits_in_the_wrong_order_are_refused_before_anything_runs(host):
    answer = host.classes["InstDiffMaskSettings"].validate_inputs(positive=0.2, negative=0.5)
    assert "must be below" in answer
