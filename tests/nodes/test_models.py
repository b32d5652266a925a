"""Models in their real layouts, with random weights: families, inpainting variants, weight types, sizes, refusals."""

import functools
from typing import Any

import pytest
import torch

WIDTHS = {"sd1": {"l": 32}, "sd2": {"h": 64}, "sdxl": {"l": 32, "g": 64}}
"""Families, and the widths of their text encoders here. A U-Net's prompt is as wide as all of them."""


@pytest.fixture(scope="session")
def text_encoder(host):
    """``text_encoder(family)``: its real tokenizers and encoder classes, with three thin layers of random weights."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models_base
    from comfy.text_encoders import sd2_clip

    targets = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sd2": (sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
    }

    def build(family):
        tokenizer, encoder = targets[family]
        names = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}
        options: dict[str, Any] = {
            f"{names[letter]}_model_config": {
                "hidden_size": width, "intermediate_size": width * 2, "num_attention_heads": 4, "num_hidden_layers": 3,
                "projection_dim": width,
            }
            for letter, width in WIDTHS[family].items()
        }  # fmt: skip
        if family == "sd2":
            options["model_name"] = "clip_h"

        def small(device="cpu", dtype=None, model_options=None):
            return encoder(device=device, dtype=dtype, model_options=options | (model_options or {}))

        target = comfy.supported_models_base.ClipTarget(tokenizer, small)
        clip = comfy.sd.CLIP(target, embedding_directory=None, tokenizer_data={}, parameters=1)
        generator = torch.Generator().manual_seed(0)
        for weight in clip.cond_stage_model.parameters():
            weight.data.normal_(0, 0.2, generator=generator)
        return clip

    return functools.cache(build)


@pytest.fixture
def family(host, layout_model, text_encoder):
    """``family(name, ...)``: the sampling inputs of a family: model and conditionings."""

    def build(name, **options):
        widths = WIDTHS[name]
        pooled = widths["g"] if name == "sdxl" else 0
        clip = text_encoder(name)
        return {
            "model": layout_model(name, context=sum(widths.values()), pooled=pooled, **options),
            "positive": host.run("InstDiffEncodeEditPrompt", clip=clip, text="a frog on the grass"),
            "negative": host.nodes.CLIPTextEncode().encode(clip, "")[0],
            "steps": 2,
        }

    return build


V_PREDICTION = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
"""The weight by which the host tells that an SD 2 model predicts v."""


def check_mask_acts(samples, latent):
    """Part of the picture is the source's bit for bit, which no sampler leaves by itself.

    Which part is for other tests: random weights look everywhere nearly alike.
    """
    assert samples.isfinite().all()
    assert 0 < (samples != latent).any(1).float().mean() < 1


def checked(host, inputs, latent, cells):
    """Capture Attention is KSampler; Masked Sampler keeps what is outside its mask."""
    plain = host.k_sampler(latent, **inputs)
    samples, attention = host.capture(latent, **inputs)
    assert (plain != latent).any(1).all()
    assert torch.equal(samples, plain)
    assert attention.words.texts == ("a", "frog", "on", "the", "grass")
    assert attention.maps.shape[-2:] == cells
    assert attention.maps.isfinite().all()
    assert attention.propagated.isfinite().all()
    assert len(attention.sigmas) == inputs["steps"]
    samples, mask, _ = host.edit(latent, **inputs)
    assert mask.shape == (len(latent), latent.shape[-2] * 8, latent.shape[-1] * 8)
    check_mask_acts(samples, latent)


@pytest.mark.parametrize("name", WIDTHS)
def test_a_family_is_sampled_as_by_k_sampler_and_masked(host, family, make_latent, name):
    checked(host, family(name), make_latent(1, 24, 24), (12, 12))


def test_sd2_with_v_prediction(host, family, make_latent):
    import comfy.model_base

    inputs = family("sd2", state=V_PREDICTION)
    assert inputs["model"].model.model_type is comfy.model_base.ModelType.V_PREDICTION
    checked(host, inputs, make_latent(1, 24, 24), (12, 12))


@pytest.mark.one_host
def test_sdxl_at_1024_pixels_reads_its_32_by_32_cells(host, family, make_latent):
    """Of its two grids, 64 x 64 and 32 x 32, the one nearest to 16 x 16 is read."""
    latent, half = make_latent(1, 128, 128), torch.zeros(1, 1024, 1024)
    half[..., :512] = 1
    samples, _, attention = host.edit(latent, mask=half, **family("sdxl") | {"steps": 1, "cfg": 1.0})
    assert attention.maps.shape[-2:] == (32, 32)
    assert attention.maps.isfinite().all()
    assert (samples != latent).any(1)[..., :64].all()
    assert torch.equal(samples[..., 64:], latent[..., 64:])


def test_sdxl_knows_its_words_by_both_encoders(host, text_encoder):
    """The words stand at the same positions in both; the context is as wide as the two together."""
    context, options = host.run("InstDiffEncodeEditPrompt", clip=text_encoder("sdxl"), text="a frog, on (grass:1.2)")[0]
    assert context.shape == (1, 77, 96)
    assert options["pooled_output"].shape == (1, 64)
    words = options["instdiff_prompt"].words
    assert [(word.text, word.positions) for word in words.words] == [
        ("a", (1,)), ("frog", (2,)), ("on", (4,)), ("grass", (5,)),
    ]  # fmt: skip
    assert words == host.prompt("a frog, on (grass:1.2)")[0][1]["instdiff_prompt"].words


def test_sd2_pads_with_other_tokens_and_has_the_same_words(host, text_encoder):
    options = host.run("InstDiffEncodeEditPrompt", clip=text_encoder("sd2"), text="a frog on grass")[0][1]
    assert options["instdiff_prompt"].words == host.prompt("a frog on grass")[0][1]["instdiff_prompt"].words


@pytest.mark.parametrize("name", WIDTHS)
def test_an_inpainting_variant_takes_nine_channels(host, family, make_picture, name):
    inputs = family(name, in_channels=9)
    assert inputs["model"].model.diffusion_model.in_channels == 9
    area = torch.zeros(1, 128, 128)
    area[:, 32:, :96] = 1
    node = host.nodes.InpaintModelConditioning()
    picture = make_picture(1, 128, 128)
    positive, negative, latent = node.encode(inputs["positive"], inputs["negative"], picture, host.vae, area)
    source = latent["samples"]
    inputs |= {"positive": positive, "negative": negative, "latent_image": latent}
    plain = host.k_sampler(source, **inputs)
    assert torch.equal(host.capture(source, **inputs)[0], plain)
    # random weights contradict nothing: the mask is a word's map
    named = host.settings(preset="paper", words="frog", threshold=0.6)
    samples, _, attention = host.edit(source, settings=named, **inputs)
    assert len(attention.sigmas) == 2
    assert 0 < (samples != source).any(1)[:, 4:, :12].float().mean() < 1
    without = inputs | {"latent_image": {"samples": source}}
    assert not torch.equal(host.k_sampler(source, **without), plain)


@pytest.mark.parametrize(
    ("dtype", "cast"),
    [
        pytest.param(torch.float16, None, marks=pytest.mark.one_host),
        (torch.bfloat16, None),
        pytest.param(torch.float16, torch.float32, marks=pytest.mark.one_host),
        (torch.float8_e4m3fn, torch.float32),
        pytest.param(torch.float8_e5m2, torch.bfloat16, marks=pytest.mark.one_host),
    ],
    ids=str,
)
def test_weights_of_any_type(host, family, make_latent, dtype, cast):
    inputs = family("sd1", dtype=dtype, cast=cast)
    assert {weight.dtype for weight in inputs["model"].model.diffusion_model.parameters()} == {dtype}
    checked(host, inputs, make_latent(1, 16, 16), (16, 16))


@pytest.mark.one_host
@pytest.mark.parametrize(
    ("size", "cells"),
    [((6, 60), (6, 60)), ((21, 13), (21, 13)), ((9, 64), (5, 32)), ((32, 20), (16, 10)), ((5, 7), (5, 7))],
    ids=str,
)
def test_any_size_and_aspect_ratio(host, family, make_latent, size, cells):
    checked(host, family("sd1"), make_latent(1, *size), cells)


@pytest.mark.parametrize("node", ["edit", "capture"])
def test_models_whose_attention_cannot_be_reached_are_refused_with_the_reason_and_what_works(
    host, node, unreadable_model, make_latent
):
    refusal = "PixArt shows its attention to no node.*Stable Diffusion.*SDXL, Flux.*Z-Image"
    with pytest.raises(ValueError, match=refusal):
        getattr(host, node)(make_latent(1, 16, 16), model=unreadable_model)


def test_guidance_refuses_them_too(host, unreadable_model, make_latent):
    with pytest.raises(ValueError, match="PixArt shows its attention to no node"):
        host.run("InstDiffMaskGuidance", model=unreadable_model, latent={"samples": make_latent(1, 16, 16)})
