"""The previews that ComfyUI sends to the browser while it samples: they show the mask's outline."""

import asyncio
import json
import struct
from io import BytesIO

import aiohttp
import numpy as np
import pytest
from PIL import Image

CELLS = 32
"""Latent pixels across the pictures of 256 pixels; ComfyUI enlarges the preview."""

SEED = 7
"""Of a noise whose previews have hardly any white and black of their own."""

MODEL, SCENE, PROMPT, NEGATIVE = "model", "scene", "prompt", "negative"

WIDGETS = {
    "seed": SEED, "steps": 6, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
    "positive": [PROMPT, 0], "negative": [NEGATIVE, 0],
}  # fmt: skip


@pytest.fixture
def previews(server):
    """``previews(graph)``: the run, and its previews ``[frames, cells, cells]`` as brightness in 0..255."""

    async def listen(graph):
        frames = []
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.url}/ws?clientId=previews", max_msg_size=0) as socket,
        ):
            body = {"prompt": graph, "client_id": "previews"}
            prompt_id = (await asyncio.to_thread(server.post, "/prompt", body))["prompt_id"]
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    frames.append(message.data)
                elif json.loads(message.data)["type"] in ("execution_success", "execution_error"):
                    break
        return prompt_id, frames

    def run(graph):
        prompt_id, frames = asyncio.run(asyncio.wait_for(listen(graph), 300))
        return server.result(prompt_id), np.stack([brightness(each) for each in frames])

    return run


def brightness(frame):
    """Of each latent pixel in a message: its kind, the kind of picture, and the picture."""
    assert struct.unpack(">II", frame[:8]) == (1, 1)
    with Image.open(BytesIO(frame[8:])) as image:
        picture = np.asarray(image.convert("L"), dtype=float)
    middle = (np.arange(CELLS) + 0.5) * len(picture) / CELLS
    return picture[np.ix_(middle.astype(int), middle.astype(int))]


@pytest.fixture
def graph():
    """The nodes that come before a sampler, and a sampling in few steps."""
    return {
        MODEL: node("InstDiffLoadMiniModel"),
        SCENE: node("InstDiffMiniScene", object="cat", background="grass", seed=1),
        "latent": node("VAEEncode", pixels=[SCENE, 0], vae=[MODEL, 2]),
        PROMPT: node("InstDiffEncodeEditPrompt", clip=[MODEL, 1], text="a frog"),
        NEGATIVE: node("CLIPTextEncode", clip=[MODEL, 1], text=""),
        "sampling": node("KSampler", model=[MODEL, 0], latent_image=["latent", 0], **WIDGETS),
        "picture": node("PreviewImage", images=["decoded", 0]),
        "decoded": node("VAEDecode", samples=["sampling", 0], vae=[MODEL, 2]),
    }


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def border(mask):
    """The cells of a mask ``[H, W, 3]`` that touch the outside of it."""
    cells = mask[..., 0].reshape(CELLS, len(mask) // CELLS, CELLS, -1).mean((1, 3)) > 127
    return cells & near(~cells)


def near(cells):
    """These cells and all around them."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(cells, 1), (3, 3))
    return windows.any((-2, -1))


def assert_outlined(frames, mask):
    """The last preview has a line in white and black along the mask's border, and nowhere else."""
    line, expected = drawn(frames[-1]), border(mask)
    assert expected.any()
    assert (line & near(expected)).sum() > 0.9 * line.sum()
    assert (expected & near(line)).sum() > 0.9 * expected.sum()
    white = (frames[-1][line] > 128).mean()
    assert 0.2 < white < 0.8


def drawn(frame):
    """Where the picture is white or black, which these hardly are."""
    return (frame > 225) | (frame < 30)


def test_masked_sampler_shows_the_outline_of_the_mask_that_it_finds(previews, graph):
    plain, frames = previews(graph)
    assert len(frames) == 6
    assert drawn(frames[-1]).mean() < 0.005, "KSampler shows the picture alone"
    graph["sampling"] = node("InstDiffMaskedSampler", **graph["sampling"]["inputs"])
    graph["shown"] = node("MaskToImage", mask=["sampling", 1])
    graph["mask"] = node("PreviewImage", images=["shown", 0])
    run, frames = previews(graph)
    assert len(frames) == 6
    assert_outlined(frames, run.picture("mask"))
    line = drawn(frames[-1])
    assert line.mean() < 0.1
    assert (run.picture("picture") != plain.picture("picture")).any()


def test_the_outline_is_there_in_any_sampler_behind_instant_mask_guidance(previews, graph):
    """With the user's own mask, that of the object."""
    graph["guide"] = node("InstDiffMaskGuidance", model=[MODEL, 0], latent=["latent", 0], mask=[SCENE, 1])
    graph["sampling"]["inputs"] |= {"model": ["guide", 0], "latent_image": ["guide", 1]}
    graph["shown"] = node("MaskToImage", mask=[SCENE, 1])
    graph["mask"] = node("PreviewImage", images=["shown", 0])
    run, frames = previews(graph)
    assert_outlined(frames, run.picture("mask"))

    graph |= {
        "noise": node("RandomNoise", noise_seed=SEED),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=[MODEL, 0], scheduler="normal", steps=6, denoise=0.6),
        "guider": node("CFGGuider", model=["guide", 0], positive=[PROMPT, 0], negative=[NEGATIVE, 0], cfg=5.0),
        "sampling": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
            sigmas=["sigmas", 0], latent_image=["guide", 1],
        ),
        "decoded": node("VAEDecode", samples=["sampling", 1], vae=[MODEL, 2]),
    }  # fmt: skip
    again, custom = previews(graph)
    assert (custom == frames).all()
    assert (again.picture("picture") == run.picture("picture")).mean() > 0.99, "what is kept has no outline"
