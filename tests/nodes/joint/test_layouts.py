"""Where text and picture stand in a model's sequences: one of them is moved, and the queries that move are its own."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


class Spy:
    """Another node's attention, which sees what goes into the attentions that are read."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Spy:
        return self  # ComfyUI v0.3.64 copies a model's options deeply

    def __call__(self, func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        reading = kwargs["transformer_options"].get("instdiff_call")
        if reading is not None and q.shape[-2] == reading.layout.length:
            heads = args[0] if args else kwargs["heads"]
            q_, k_ = (
                each.clone() if kwargs.get("skip_reshape") else each.unflatten(-1, (heads, -1)).transpose(1, 2).clone()
                for each in (q, k)
            )
            mask = args[1] if len(args) > 1 else kwargs.get("mask")
            self.calls.append({"q": q_, "k": k_, "mask": mask, "layout": reading.layout, "reader": reading.reader})
        return func(q, k, v, *args, **kwargs)


def spied(host, family, latent, **changes) -> tuple[Spy, Any]:
    """One step under cfg 1, and its record."""
    spy = Spy()
    model = family.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = spy
    inputs = family.inputs(**{"cfg": 1.0, "steps": 1, "denoise": 0.3} | changes | {"model": model})
    attention = host.capture(latent, **inputs)[1]
    return spy, attention


def moved(before: Tensor, after: Tensor) -> set[int]:
    """The places in the sequence whose queries or keys differ."""
    return set((before != after).any(-1).any(1)[0].nonzero()[:, 0].tolist())


def perturbed(conditioning: Any, position: int, length: int) -> Any:
    """A conditioning with another vector at one token position, of Llama's beyond `length`."""
    ((context, options),) = conditioning
    context, options = context.clone(), dict(options)
    if position < length:
        context[:, position] += 1
    else:
        options["conditioning_llama3"] = options["conditioning_llama3"].clone()
        options["conditioning_llama3"][:, :, position - length] += 1
    return [[context, options]]


@pytest.mark.parametrize("position", [*(pytest.param(place, marks=pytest.mark.one_host) for place in (0, 5)), 12])
def test_a_token_of_the_text_stands_where_its_map_is_read(host, family, position):
    latent = family.latent(9, 13)
    before, after = (
        spied(host, family, latent, positive=positive)[0].calls
        for positive in (family.positive(), perturbed(family.positive(), position, 13))
    )
    pairs = zip(before, after, strict=True)
    call, other = next(pair for pair in pairs if family.name != "wan" or pair[0]["k"].shape[2] == 13)
    layout = call["layout"]
    filled = layout.text[0].stop - 13 if family.name == "flux2" else 0
    places = {
        span.place + filled + position - span.first
        for span in layout.text if span.first <= filled + position < span.stop
    }  # fmt: skip
    assert moved(call["k"], other["k"]) == places


def test_a_token_of_llama_stands_twice_in_hidreams_sequence(host, joint_family):
    family = joint_family("hidream")
    latent = family.latent(9, 13)
    before, after = (
        spied(host, family, latent, positive=positive)[0].calls[0]
        for positive in (family.positive(), perturbed(family.positive(), 13 + 2, 13))
    )
    assert moved(before["k"], after["k"]) == {35 + 13 + 2, 35 + 13 + 6 + 2}


@pytest.mark.parametrize(
    ("y", "x"), [*(pytest.param(*cell, marks=pytest.mark.one_host) for cell in [(2, 1), (4, 3)]), (8, 12)]
)
def test_a_patch_of_the_picture_stands_where_its_cell_is_read(host, family, y, x):
    latent = family.latent(9, 13)
    other = latent.clone()
    other[..., y, x] += 1
    before, after = (spied(host, family, each)[0].calls[0] for each in (latent, other))
    layout, patch = before["layout"], 1 if family.name == "flux2" else 2
    assert moved(before["q"], after["q"]) == {layout.picture + y // patch * layout.across + x // patch}


@pytest.mark.parametrize("name", ["flux", "flux2", "qwen_image"])
@pytest.mark.parametrize("reference", [(9, 13), (4, 7)])
def test_the_cells_of_references_are_not_those_of_the_picture(host, joint_family, name, reference):
    family = joint_family(name)
    latent, references = family.latent(9, 13), [family.latent(*reference), family.latent(3, 3)]
    others = [references[0] + 1, references[1]]
    calls = [
        spied(host, family, latent, positive=family.positive(reference_latents=each))[0].calls[0]
        for each in (references, others)
    ]
    layout, cells = calls[0]["layout"], 9 * 13 if name == "flux2" else 5 * 7
    assert min(moved(calls[0]["q"], calls[1]["q"])) == layout.picture + cells
    other = latent.clone()
    other[..., 8, 12] += 1
    call = spied(host, family, other, positive=family.positive(reference_latents=references))[0].calls[0]
    assert moved(calls[0]["q"], call["q"]) == {layout.picture + cells - 1}


@pytest.mark.parametrize("texts", [0, 1, 3], ids=["no_texts", "one_text", "a_text_more_than_references"])
@pytest.mark.parametrize("seen", [0, 1], ids=["pictures", "pictures_and_siglip"])
def test_references_of_z_image_omni_stand_before_the_picture(host, joint_family, texts, seen):
    """Two references of 2 x 4 and 5 x 7 cells; TextEncodeZImageOmni gives them texts and what SigLIP saw."""
    family = joint_family("z_image_omni")
    latent, references = family.latent(9, 13), [family.latent(4, 8), family.latent(10, 14)]
    contexts = [torch.randn(1, length, 8) for length in (3, 40, 5)][:texts]
    features = [types.SimpleNamespace(image_sizes=[(3, 32, 48)], last_hidden_state=torch.randn(1, 6, 8))] * seen
    options: dict[str, Any] = {"reference_latents_text_embeds": contexts, "clip_vision_outputs": features}

    def queries(latent: Tensor, references: list[Tensor], positive: Any = None) -> dict[str, Any]:
        positive = positive or family.positive(reference_latents=references, **options)
        return spied(host, family, latent, positive=positive)[0].calls[0]

    call = queries(latent, references)
    layout = call["layout"]
    other, moved_reference = latent.clone(), [references[0], references[1].clone()]
    other[..., 8, 12] += 1
    moved_reference[1][..., 9, 13] += 1
    assert moved(call["q"], queries(other, references)["q"]) == {layout.picture + 5 * 7 - 1}
    # the last cell of the second reference, whose 35 cells are filled up to 64
    assert moved(call["q"], queries(latent, moved_reference)["q"]) == {layout.picture - 64 + 35 - 1}
    positive = perturbed(family.positive(reference_latents=references, **options), 5, 13)
    assert moved(call["k"], queries(latent, references, positive)["k"]) == {layout.text[0].place + 5}


def test_a_picture_to_edit_stands_beside_hidreams_own(host, joint_family):
    family = joint_family("hidream")
    latent = family.latent(8, 12)
    other = latent.clone()
    other[..., 7, 11] += 1
    positive = family.positive(concat_latent_image=family.latent(8, 12))
    before, after = (spied(host, family, each, positive=positive)[0].calls[0] for each in (latent, other))
    layout = before["layout"]
    assert layout.across == 12
    assert moved(before["q"], after["q"]) == {layout.picture + 3 * 12 + 5}


# ---- what is read ----


def attended(call: dict[str, Any], entry: int = 0) -> np.ndarray:
    """``[queries, keys]``: the mean over the heads of an attention's probabilities, in float64."""
    q, k = call["q"][entry].double().numpy(), call["k"][entry].double().numpy()
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return (scores / scores.sum(-1, keepdims=True)).mean(0)


@pytest.mark.parametrize(
    "across", [32, pytest.param(3, marks=pytest.mark.one_host)], ids=["every_cell", "cells_by_stride"]
)
def test_the_maps_are_the_attention_of_the_pictures_cells_to_the_words(host, family, across, monkeypatch):
    monkeypatch.setattr(sys.modules[host.hooks.__name__ + ".readers.joint"], "GRID", across)
    size = (5, 7) if family.name == "flux2" else (9, 13)
    spy, attention = spied(host, family, family.latent(*size))
    crosses = family.name == "wan"
    calls = [call for call in spy.calls if not crosses or call["k"].shape[2] == 13]
    reader, layout = calls[0]["reader"], calls[0]["layout"]
    stride, cells = reader.stride, reader.cells
    assert stride == (1 if across == 32 else 2)
    assert attention.maps.shape[-2:] == tuple(len(range((stride - 1) // 2, count, stride)) for count in cells)
    filled = layout.text[0].stop - 13 if family.name == "flux2" else 0
    expected: Any = 0
    read = [call for number, call in enumerate(calls) if number in reader.blocks]
    for call in read:
        probabilities = attended(call)
        picture = probabilities[layout.picture : layout.picture + cells[0] * cells[1]]
        maps = picture.reshape(*cells, -1)[(stride - 1) // 2 :: stride, (stride - 1) // 2 :: stride]
        at = layout.text[0].place + filled
        frog = maps[..., [at + 5, at + 6]].sum(-1)
        if family.name == "hidream":
            frog = (frog + maps[..., layout.text[0].place + 13 + 2] + maps[..., layout.text[1].place + 2]) * 2 / 3
        expected = expected + np.stack([maps[..., at + 2], maps[..., at + 3], frog / 2]) / len(read)
    np.testing.assert_allclose(attention.maps[0, 0, 2:].numpy(), expected, rtol=2e-4, atol=1e-7)


@pytest.mark.one_host
def test_half_precision_reads_what_its_queries_and_keys_say(host, joint_family, family):
    """In the layer's own type, to the rounding of its results."""
    family = joint_family(family.name, torch.bfloat16)
    spy, attention = spied(host, family, family.latent(8, 12))
    call = next(call for call in spy.calls if family.name != "wan" or call["k"].shape[2] == 13)
    assert call["q"].dtype == torch.bfloat16
    layout, reader = call["layout"], call["reader"]
    layers = [call for call in spy.calls if family.name != "wan" or call["k"].shape[2] == 13]
    at = layout.text[0].stop - 13 + layout.text[0].place + 2 if family.name == "flux2" else layout.text[0].place + 2
    rows = slice(layout.picture, layout.picture + reader.cells[0] * reader.cells[1])
    expected = np.mean([attended({"q": each["q"].float(), "k": each["k"].float()})[rows, at] for each in layers], 0)
    np.testing.assert_allclose(attention.maps[0, 0, 2].flatten(), expected, atol=0.01 * expected.max())


def test_tokens_that_the_model_masks_are_masked_in_the_maps(host, joint_family):
    family = joint_family("qwen_image")
    mask = torch.ones(1, 13, dtype=torch.long)
    mask[:, 8:] = 0
    positive = family.positive(attention_mask=mask)
    spy, attention = spied(host, family, family.latent(9, 13), positive=positive)
    if spy.calls[0]["mask"] is None:
        pytest.skip("this ComfyUI masks no tokens of Qwen-Image")
    kept = [*range(8), *range(13, 48)]
    layers = [attended({"q": call["q"], "k": call["k"][:, :, kept]})[13:, 2] for call in spy.calls]
    np.testing.assert_allclose(attention.maps[0, 0, 2].flatten(), np.mean(layers, 0), rtol=2e-4, atol=1e-7)


def test_maps_are_propagated_by_the_pictures_own_attention_in_the_middle_block(host, family):
    size = (5, 7) if family.name == "flux2" else (10, 14)
    spy, attention = spied(host, family, family.latent(*size))
    calls = [call for call in spy.calls if family.name != "wan" or call["k"].shape[2] == 35]
    reader, layout = calls[0]["reader"], calls[0]["layout"]
    call = calls[reader.blocks[len(reader.blocks) // 2]]
    picture = slice(layout.picture, layout.picture + 35)
    own = attended({"q": call["q"][:, :, picture], "k": call["k"][:, :, picture]})
    expected = attention.maps[0, 0, 2:].double().flatten(1).numpy() @ own.T
    np.testing.assert_allclose(attention.propagated[0, 0, 3:].flatten(1).numpy(), expected, rtol=2e-4, atol=1e-7)


def test_sd3_5_mediums_attention_of_the_picture_alone_is_not_counted_as_a_block(host, joint_family):
    family = joint_family("sd3_5_medium")
    spy, _ = spied(host, family, family.latent(9, 13))
    assert len(spy.calls) == 2


@pytest.mark.parametrize("text", [13, 35], ids=["other_length", "as_long_as_the_picture"])
def test_wan_is_read_where_a_text_is_as_long_as_the_picture_too(host, joint_family, text):
    family = joint_family("wan")
    latent = family.latent(10, 14)
    inputs = {"positive": family.positive(text), "negative": family.conditioning(2, text)}
    spy, attention = spied(host, family, latent, **inputs)
    assert len(spy.calls) == 6
    crossing = attended(spy.calls[1])
    expected = np.mean([attended(spy.calls[number])[:, 2] for number in (1, 3, 5)], 0)
    assert crossing.shape == (35, text)
    np.testing.assert_allclose(attention.maps[0, 0, 2].flatten().numpy(), expected, rtol=2e-4, atol=1e-7)


def test_refiners_of_text_or_picture_alone_are_not_read(host, joint_family):
    family = joint_family("lumina2_refined")
    assert len(family.model.model.diffusion_model.context_refiner) == 1
    spy, attention = spied(host, family, family.latent(9, 13))
    assert len(spy.calls) == 3
    expected = np.mean([attended(call)[13:, 2] for call in spy.calls], 0)
    np.testing.assert_allclose(attention.maps[0, 0, 2].flatten().numpy(), expected, rtol=2e-4, atol=1e-7)
