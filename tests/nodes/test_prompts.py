"""Prompts of every form: of several chunks, of other lengths than the negative, with embeddings and weights."""

import pytest
import torch
from safetensors.torch import save_file

STEPS = 2

LONG = " ".join(["tree"] * 90)
"""A prompt of two chunks of the text encoder."""
LONGER = " ".join(["tree"] * 160)
"""A prompt of three."""


def edited(host, latent, **inputs):
    """Capture Attention is KSampler, and Masked Sampler keeps what is outside its mask: the record."""
    inputs |= {"steps": STEPS}
    samples, attention = host.capture(latent, **inputs)
    assert torch.equal(samples, host.k_sampler(latent, **inputs))
    assert len(attention.sigmas) == STEPS
    assert attention.maps.isfinite().all()
    samples, _, edit = host.edit(latent, **inputs)
    host.changed(samples, latent, edit)
    return attention


def test_words_of_every_chunk_are_read(host, latent):
    positive = host.prompt(f"a frog {LONG} and a cat")
    assert positive[0][0].shape[1] == 154
    attention = edited(host, latent, positive=positive)
    words = attention.words
    assert words.texts[-1] == "cat"
    assert words.words[-1].positions[0] > 77
    maps = attention.maps[:, 0, 2:].float()
    assert (maps.amax((0, 2, 3)) > 0).all()
    found = [
        host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words=word))
        for word in ("frog", "cat")
    ]
    assert "'cat'" in found[1][2]
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("positive", "negative", "columns"),
    [
        ("a frog", LONG, (77, 154)),
        ("a frog", LONGER, (77, 231)),
        (f"a frog {LONG}", LONGER, (154, 231)),
        (f"a frog {LONG}", "", (154, 77)),
    ],
)
def test_a_negative_prompt_of_any_length_leaves_the_words_where_they_are(host, latent, positive, negative, columns):
    """The host repeats both to their least common length, up to 462 token positions here: the repeats are folded."""
    inputs = {"positive": host.prompt(positive), "negative": host.other_prompt(negative)}
    assert (inputs["positive"][0][0].shape[1], inputs["negative"][0][0].shape[1]) == columns
    attention = edited(host, latent, **inputs)
    plain = host.capture(latent, positive=inputs["positive"], steps=STEPS)[1]
    assert attention.words == plain.words
    torch.testing.assert_close(attention.maps[0], plain.maps[0], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(("negative", "columns"), [(LONG, 154), (LONGER, 231)])
def test_the_host_does_repeat_the_shorter_context(host, latent, negative, columns):
    """What the test above is about: the layers see more token positions than the prompt has."""
    seen = set()

    def watching(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        seen.add(k.shape[1])
        return optimized_attention(q, k, v, options["n_heads"])

    model = host.model.clone()
    model.set_model_attn2_replace(watching, "input", 3)
    host.capture(latent, model=model, negative=host.other_prompt(negative), steps=1)
    assert seen == {columns}


def test_no_guidance_needs_no_negative_prompt(host, latent):
    assert edited(host, latent, cfg=1.0, negative=host.other_prompt(LONG)).words.texts == ("a", "frog")


@pytest.fixture
def clip_with_embeddings(host, tmp_path):
    generator = torch.Generator().manual_seed(0)
    save_file({"emb_params": torch.randn(3, 192, generator=generator)}, tmp_path / "thing.safetensors")
    clip = host.clip.clone()
    clip.tokenizer = type(host.clip.tokenizer)(embedding_directory=[str(tmp_path)])
    return clip


@pytest.mark.parametrize("text", ["a embedding:thing on snow", "a (embedding:thing:1.2) on snow"])
def test_an_embedding_is_sampled_and_can_make_the_mask(host, latent, clip_with_embeddings, text):
    positive = host.run("InstDiffEncodeEditPrompt", clip=clip_with_embeddings, text=text)
    attention = edited(host, latent, positive=positive)
    assert attention.words.texts == ("a", "embedding:thing", "on", "snow")
    assert attention.words.words[1].positions == (2, 3, 4)
    mask, _, report, _ = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words="embedding"))
    assert "index word 'embedding:thing'" in report
    assert 0 < mask.mean() < 1


def test_an_embedding_in_the_negative_prompt_makes_no_difference_to_the_words(host, latent, clip_with_embeddings):
    negative = host.nodes.CLIPTextEncode().encode(clip_with_embeddings, "embedding:thing, blurry")[0]
    assert edited(host, latent, negative=negative).words.texts == ("a", "frog")


@pytest.mark.parametrize("text", ["a (frog:1.4) on the snow", "((a frog)) on the (snow:0.8)"])
def test_weights_change_the_picture_and_not_the_words(host, latent, text):
    plain = host.prompt("a frog on the snow")
    attention = edited(host, latent, positive=host.prompt(text))
    assert attention.words == plain[0][1]["instdiff_prompt"].words
    weighted = host.k_sampler(latent, positive=host.prompt(text), steps=1)
    assert not torch.equal(weighted, host.k_sampler(latent, positive=plain, steps=1))


@pytest.mark.parametrize("node", ["edit", "capture"])
def test_a_concatenated_prompt_of_whole_chunks_is_refused(host, latent, node):
    """Its 154 token positions are not the 77 twice: that would read the other prompt's words as its own."""
    positive = host.nodes.ConditioningConcat().concat(host.prompt("a frog"), host.other_prompt("on the grass"))[0]
    assert positive[0][0].shape[1] == 154
    with pytest.raises(ValueError, match=r"154 token positions.*counted for 77.*do not concatenate"):
        getattr(host, node)(latent, positive=positive)


def test_an_edit_prompt_concatenated_to_another_is_refused(host, latent):
    positive = host.nodes.ConditioningConcat().concat(host.other_prompt("on the grass"), host.prompt("a frog"))[0]
    with pytest.raises(ValueError, match="carries no words: encode the prompt with the node Encode Edit Prompt"):
        host.edit(latent, positive=positive)


def test_guidance_refuses_a_concatenated_prompt_before_sampling(host, latent):
    model, *_ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    positive = host.nodes.ConditioningConcat().concat(host.prompt("a frog"), host.other_prompt("on the grass"))[0]
    with pytest.raises(ValueError, match="do not concatenate"):
        host.k_sampler(latent, model=model, positive=positive)


def test_words_of_another_encoders_conditioning(host, latent):
    """Clip and text stand in for Encode Edit Prompt; they must be those of the conditioning."""
    named = {"clip": host.clip, "text": "a frog"}
    samples, mask, attention = host.edit(latent, positive=host.other_prompt("a frog"), **named)
    expected, expected_mask, _ = host.edit(latent)
    assert torch.equal(samples, expected)
    assert torch.equal(mask, expected_mask)
    assert attention.words.texts == ("a", "frog")
    with pytest.raises(ValueError, match="154 token positions, but its words were counted for 77"):
        host.edit(latent, positive=host.other_prompt(LONG), **named)
