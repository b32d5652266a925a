"""Edit prompts of the host's text encoders: its own tokenizers, and its encoders' classes with a few random weights."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch


def encoded(host: Any, clip: Any, text: str) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """The conditioning of Encode Edit Prompt, and its words with their token positions."""
    conditioning = host.run("InstDiffEncodeEditPrompt", clip=clip, text=text)
    words = conditioning[0][1]["instdiff_prompt"].words
    assert words.length == conditioning[0][0].shape[1]
    return conditioning, [(word.text, word.positions) for word in words.words]


@pytest.mark.parametrize(
    ("name", "first", "end"),
    [
        ("flux", 1, 6),
        ("chroma", 1, 6),
        ("sd3_t5_alone", 1, 6),
        ("qwen_image", 0, 5),
        ("z_image", 3, 8),
        ("klein", 3, 8),
    ],
)
def test_words_stand_at_the_positions_of_their_tokens(host, text_encoder, name, first, end):
    """T5 has a token of its own for the blank before its first word; Qwen's template goes before or is kept."""
    conditioning, words = encoded(host, text_encoder(name), "a green dog on grass")
    assert words == [(text, (first + number,)) for number, text in enumerate(["a", "green", "dog", "on", "grass"])]
    found = conditioning[0][1]["instdiff_prompt"].words
    assert (found.start, found.end) == ((), (end,))


@pytest.mark.parametrize(
    ("name", "key", "parses"),
    [
        ("flux2", "mistral3_24b", False), ("lumina2", "gemma2_2b", True), ("wan", "clip_umt5xxl", True),
        ("hidream", "llama", True),
    ],
)  # fmt: skip
def test_words_of_encoders_whose_tokenizer_comes_with_their_file(host, text_encoder, name, key, parses, caplog):
    """Mistral, Gemma, UMT5, and Llama beside T5: each word's tokens spell it, in scripts that they never saw too."""
    clip, text = text_encoder(name), "a green dog, the Möwe, 猫, xylophone"
    conditioning = host.run("InstDiffEncodeEditPrompt", clip=clip, text=text)
    words = conditioning[0][1]["instdiff_prompt"].words
    ids = clip.tokenize(text)[key.removeprefix("clip_")][0]
    tokenizer = getattr(clip.tokenizer, key).tokenizer
    decode = getattr(tokenizer, "decode", None) or tokenizer.tokenizer.decode  # ComfyUI v0.3.64
    before = 128 if name == "hidream" else 0
    if name == "hidream" and "green dog" not in decode([token for token, *_ in ids]):
        pytest.skip("this ComfyUI reads Llama's tokenizer by transformers, which since version 5 loses its blanks")
    assert words.length == before + len(ids)
    assert list(words.texts) == ["a", "green", "dog", "the", "Möwe", "猫", "xylophone"]
    for word in words.words:
        own = [ids[position - before][0] for position in word.positions if position >= before]
        assert decode(own).strip(" ,") == word.text
        # with HiDream T5 has the word as well
        assert (len(own) < len(word.positions)) == (name == "hidream")
    assert not caplog.text
    weighted = host.run("InstDiffEncodeEditPrompt", clip=clip, text="a green (dog:1.3)")
    assert weighted[0][1]["instdiff_prompt"].words.texts[:2] == ("a", "green")
    assert ("does not know weights" in caplog.text) == (not parses)


def test_sd3_has_a_word_in_both_of_its_halves(host, text_encoder):
    conditioning, words = encoded(host, text_encoder("sd3"), "a green dog, Klimt")
    assert conditioning[0][0].shape[1] == 154
    assert words[:3] == [("a", (1, 78)), ("green", (2, 79)), ("dog", (3, 80))]
    assert [text.casefold() for text, _ in words] == ["a", "green", "dog", "klimt"]
    assert conditioning[0][1]["instdiff_prompt"].words.start == (0,)


def test_sd3_without_t5_has_clips_words_alone(host, text_encoder):
    conditioning, words = encoded(host, text_encoder("sd3_without_t5"), "a green frog")
    assert conditioning[0][0].shape[1] == 77
    assert words == [("a", (1,)), ("green", (2,)), ("frog", (3,))]


@pytest.mark.parametrize("name", ["flux", "chroma", "sd3", "qwen_image", "z_image", "klein"])
def test_long_prompts_and_other_scripts(host, text_encoder, name):
    texts = [text for text, _ in encoded(host, text_encoder(name), "Über " * 100 + "grüner Frosch, 'blau'")[1]]
    assert [text.casefold().strip("'") for text in texts[-3:]] == ["grüner", "frosch", "blau"]
    assert sum(text.casefold() == "über" for text in texts) == 100


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "klein"])
def test_chinese_prompts_have_words(host, text_encoder, name):
    assert [text for text, _ in encoded(host, text_encoder(name), "一只青蛙，草地")[1]] == ["一只", "青蛙", "草地"]


@pytest.mark.parametrize("name", ["flux", "chroma", "sd3", "sd3_without_t5", "qwen_image", "z_image", "klein"])
def test_words_are_as_the_person_wrote_them_whatever_the_encoder(host, text_encoder, name):
    words = encoded(host, text_encoder(name), "A T-Shirt, long_hair and a frog's 2024 car.")[1]
    assert [text for text, _ in words] == ["A", "T-Shirt", "long_hair", "and", "a", "frog's", "2024", "car"]


@pytest.mark.parametrize(("name", "parses"), [("flux", True), ("sd3", True), ("qwen_image", False), ("klein", False)])
def test_weights_that_the_encoder_does_not_know_are_told(host, text_encoder, name, parses, caplog):
    plain = encoded(host, text_encoder(name), "a frog on grass")[1]
    assert not caplog.text
    words = encoded(host, text_encoder(name), "a (frog:1.3) on grass")[1]
    assert (words == plain) == parses
    assert ("does not know weights" in caplog.text) == (not parses)


def test_an_encoder_that_is_not_known_is_named(host, text_encoder):
    with pytest.raises(ValueError, match="does not know how this text encoder cuts prompts: hydit_clip, mt5xl"):
        host.hooks.read_prompt(UnknownEncoder(), "a frog")


class UnknownEncoder:
    """A CLIP with tokens of a kind that is not known, as of HunyuanDiT: two encoders, side by side."""

    def tokenize(self, text: str, **_: Any) -> dict[str, Any]:
        return {"hydit_clip": [], "mt5xl": []}


# ---- to the end ----


@pytest.mark.parametrize("name", ["flux", "chroma", "qwen_image", "z_image"])
def test_a_prompt_is_read_in_its_own_model(host, text_encoder, joint_family, name):
    clip, family = text_encoder(name), joint_family(name)
    positive, negative = (
        host.run("InstDiffEncodeEditPrompt", clip=clip, text="a green frog"),
        host.nodes.CLIPTextEncode(),
    )
    inputs = {"positive": positive, "negative": negative.encode(clip, "")[0], "steps": 2, "model": family.model}
    latent = family.latent(8, 12)
    for cfg in (1.0, 4.0):
        plain = host.k_sampler(latent, cfg=cfg, **inputs)
        samples, attention = host.capture(latent, cfg=cfg, **inputs)
        assert torch.equal(samples, plain)
        assert attention.words.texts == ("a", "green", "frog")
        assert attention.propagated[:, :, 2].any()
    samples = host.edit(latent, settings=host.settings(preset="paper", words="frog", threshold=0.6), **inputs)[0]
    assert 0 < (samples != latent).flatten(2).any(1).float().mean() < 1


def test_a_prompt_of_another_node_is_counted_from_the_end_where_pictures_come_before_it(
    host, text_encoder, joint_family
):
    """As that of TextEncodeQwenImageEdit, whose encoder is shown the picture too."""
    clip, family = text_encoder("qwen_image"), joint_family("qwen_image")
    ((context, options),) = host.nodes.CLIPTextEncode().encode(clip, "a green frog")[0]
    longer = [[torch.cat([torch.randn(1, 20, 8), context], 1), options]]
    latent, inputs = family.latent(8, 12), {"clip": clip, "text": "a green frog", "steps": 2, "model": family.model}
    negative = host.nodes.CLIPTextEncode().encode(clip, "")[0]
    attention = host.capture(latent, positive=longer, negative=negative, **inputs)[1]
    assert attention.words.texts == ("a", "green", "frog")
    shorter = [[context[:, 1:], options]]
    with pytest.raises(ValueError, match="has 7 token positions, but its words were counted for 8"):
        host.capture(latent, positive=shorter, negative=negative, **inputs)


def captured_beside_a_picture(host, clip, family, frog):
    """The attention of "a green frog", whose conditioning is given, beside a reference; it samples as KSampler does."""
    latent = family.latent(8, 12)
    positive = [[context, options | {"reference_latents": [latent]}] for context, options in frog]
    inputs = {"positive": positive, "negative": host.nodes.CLIPTextEncode().encode(clip, "")[0], "steps": 2}
    plain = host.k_sampler(latent, model=family.model, **inputs)
    samples, attention = host.capture(latent, model=family.model, clip=clip, text="a green frog", **inputs)
    assert torch.equal(samples, plain)
    return attention


def test_a_picture_that_qwen_is_shown_stands_before_the_words(
    host, text_encoder, joint_family, make_picture, monkeypatch
):
    """TextEncodeQwenImageEdit, with a small vision tower of the host's class, and a reference to the picture."""
    import comfy.ops
    from comfy.text_encoders.qwen_vl import Qwen2VLVisionTransformer

    clip, family = text_encoder("qwen_image"), joint_family("qwen_image")
    tower = Qwen2VLVisionTransformer(
        hidden_size=32, output_hidden_size=8, intermediate_size=32, num_heads=2, num_layers=2, device="cpu",
        dtype=torch.float32, ops=comfy.ops.manual_cast,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for weight in tower.parameters():
        weight.data.normal_(0, 0.2, generator=generator)
    monkeypatch.setattr(clip.cond_stage_model.qwen25_7b.transformer, "visual", tower)
    picture = make_picture(1, 64, 96)
    frog, dog = (
        host.extra("TextEncodeQwenImageEdit", clip, f"a green {animal}", image=picture) for animal in ("frog", "dog")
    )
    words = host.run("InstDiffEncodeEditPrompt", clip=clip, text="a green frog")[0][1]["instdiff_prompt"].words
    length = frog[0][0].shape[1]
    assert length == dog[0][0].shape[1] > words.length + 1000
    # each token is seen by itself and those behind it alone
    differing = (frog[0][0] != dog[0][0]).any(-1)[0].nonzero()[0].item()
    assert words.matrix(length)[:, 2 + 2].nonzero()[:, 0].tolist() == [differing]

    attention = captured_beside_a_picture(host, clip, family, frog)
    assert attention.maps.shape[-2:] == (4, 6)
    assert attention.words.texts == ("a", "green", "frog")


def test_words_beside_the_pictures_of_z_image_omni(host, text_encoder, joint_family, make_picture):
    """TextEncodeZImageOmni puts other tokens around the prompt where there are pictures."""
    clip, family = text_encoder("z_image"), joint_family("z_image_omni")
    node = pytest.importorskip("comfy_extras.nodes_zimage", reason="this ComfyUI has no such node").TextEncodeZImageOmni
    picture = make_picture(1, 64, 96)
    frog, dog = (node.execute(clip, f"a green {animal}", image1=picture).result[0] for animal in ("frog", "dog"))
    differing = (frog[0][0] != dog[0][0]).any(-1)[0].nonzero()[0].item()
    prompt = host.hooks.read_prompt(clip, "a green frog")
    (read,) = host.hooks.get_edit_prompts(frog, None, prompt)
    assert read.words.length == frog[0][0].shape[1] != prompt.words.length
    assert read.words.words[2].positions == (differing,)
    (alone,) = host.hooks.get_edit_prompts(node.execute(clip, "a green frog").result[0], None, prompt)
    assert alone.words == prompt.words

    attention = captured_beside_a_picture(host, clip, family, frog)
    assert attention.words.texts == ("a", "green", "frog")


@pytest.mark.parametrize(("strength", "kind"), [(1.0, "multiply"), (0.5, "attn_bias")])
def test_what_redux_appends_is_no_word(host, text_encoder, joint_family, strength, kind):
    import comfy.ops
    import comfy.sd
    from comfy.ldm.flux.redux import ReduxImageEncoder

    clip, family, latent = text_encoder("flux"), joint_family("flux"), joint_family("flux").latent(8, 12)
    encoder = ReduxImageEncoder(redux_dim=8, txt_in_features=8, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for weight in encoder.parameters():
        weight.data.normal_(0, 0.2, generator=generator)
    seen = types.SimpleNamespace(last_hidden_state=torch.randn(1, 256, 8, generator=generator))
    edit = host.run("InstDiffEncodeEditPrompt", clip=clip, text="a green frog")
    styled = host.nodes.StyleModelApply().apply_stylemodel(edit, comfy.sd.StyleModel(encoder), seen, strength, kind)[0]
    assert styled[0][0].shape[1] == 512
    inputs = {"positive": styled, "negative": host.nodes.CLIPTextEncode().encode(clip, "")[0], "steps": 2}
    with pytest.raises(ValueError, match="connect clip and text"):
        host.capture(latent, model=family.model, **inputs)
    plain = host.k_sampler(latent, model=family.model, **inputs)
    samples, attention = host.capture(latent, model=family.model, clip=clip, text="a green frog", **inputs)
    assert torch.equal(samples, plain)
    assert attention.words.texts == ("a", "green", "frog")
    assert attention.maps[:, :, 2:].amin() > 0
    # one token among all of the sequence, not the mean of it and of one of Redux
    alone = host.capture(latent, model=family.model, **inputs | {"positive": edit})[1]
    ratio = attention.maps[0, :, 4].mean() / alone.maps[0, :, 4].mean()
    assert 0.3 < ratio < 1


def test_an_edit_prompt_that_was_concatenated_is_refused(host, text_encoder, joint_family):
    clip, family = text_encoder("qwen_image"), joint_family("qwen_image")
    edit, other = (
        host.run("InstDiffEncodeEditPrompt", clip=clip, text="a frog"),
        host.run("InstDiffEncodeEditPrompt", clip=clip, text="on grass"),
    )
    positive = host.nodes.ConditioningConcat().concat(edit, other)[0]
    with pytest.raises(ValueError, match="do not concatenate"):
        host.edit(family.latent(8, 12), positive=positive, negative=other, model=family.model)
