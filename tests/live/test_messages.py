"""A user of ComfyUI is told about a mistake in the words of tests/nodes/test_bad_input.py, in the run or before it."""

import pytest


@pytest.fixture
def told(server, workflow, failed):
    """``told(change)``: the message after `change(graph)` was made to edit_with_text.json."""

    def run(change):
        graph = workflow("edit_with_text")
        change(graph)
        with pytest.raises(failed) as error:
            server.run(graph)
        return str(error.value)

    return run


def test_a_conditioning_without_words_names_the_node_to_use(told):
    message = told(lambda graph: graph["InstDiffMaskedSampler"]["inputs"].update(positive=["Negative prompt", 0]))
    assert "carries no words: encode the prompt with the node Encode Edit Prompt" in message


def test_a_latent_of_another_model_says_which_vae_to_use(told):
    def change(graph):
        latent = {"width": 256, "height": 256, "batch_size": 1}
        graph["latent"] = {"class_type": "EmptySD3LatentImage", "inputs": latent}
        graph["InstDiffMaskedSampler"]["inputs"]["latent_image"] = ["latent", 0]

    message = told(change)
    assert "16 channels and the model needs 4: encode the picture with the VAE that belongs to the model" in message


def test_an_empty_edit_prompt_asks_for_one_before_anything_runs(told):
    message = told(lambda graph: graph["InstDiffEncodeEditPrompt"]["inputs"].update(text="  "))
    assert "the edit prompt is empty: say what the picture should show" in message


def test_limits_in_the_wrong_order_are_refused_before_anything_runs(told):
    message = told(lambda graph: graph["InstDiffMaskSettings"]["inputs"].update(negative=0.95))
    assert "must be below positive" in message
