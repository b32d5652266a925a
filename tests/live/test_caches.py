"""Whatever the host keeps of earlier runs, a mask is that of the sampling that it is connected to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.live.conftest import FOLDER_NAME, Failed, Pixels, Server

CACHES: dict[str, tuple[str, ...]] = {  # --cache-lru is the default one, which forgets at another time
    "default": (),
    "classic": ("--cache-classic",),
    "none": ("--cache-none",),
    "memory always short": ("--cache-ram", "1000"),
}


@pytest.fixture(scope="module", params=CACHES)
def caching(request: pytest.FixtureRequest, host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server for each of the host's ways to keep results; that of the other tests has the default one."""
    flags = CACHES[request.param]
    if not flags:
        yield request.getfixturevalue("server")
        return
    if not set(flags[:1]) <= set(re.findall(r"--[a-z-]+", (host_path / "comfy" / "cli_args.py").read_text())):
        pytest.skip(f"this ComfyUI has no {flags[0]}")
    base = tmp_path_factory.mktemp("cache")
    server = Server.with_link(host_path, base, FOLDER_NAME, *flags)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


SMALL = {"width": 128, "height": 128, "upscale_method": "area", "crop": "disabled"}


def graph(*samplings: dict[str, Any]) -> dict[str, Any]:
    """One guidance, and a KSampler and a Refine Instant Mask for each of the samplings, given by their changes."""
    nodes: dict[str, Any] = {
        "mini": {"class_type": "InstDiffLoadMiniModel", "inputs": {}},
        "scene": {"class_type": "InstDiffMiniScene", "inputs": {"object": "cat", "background": "grass", "seed": 1}},
        "picture": {"class_type": "ImageScale", "inputs": {"image": ["scene", 0], **SMALL}},
        "latent": {"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": ["mini", 2]}},
        "nothing": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["mini", 1], "text": ""}},
        "guidance": {"class_type": "InstDiffMaskGuidance", "inputs": {"model": ["mini", 0], "latent": ["latent", 0]}},
    }
    for number, changes in enumerate(samplings):
        widgets = {"seed": 11, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5}
        links = {"model": ["guidance", 0], "latent_image": ["guidance", 1], "negative": ["nothing", 0]}
        links["positive"] = [f"prompt {number}", 0]
        settings = {"attention": ["guidance", 2], "steps": 0, "sampled": [f"sampler {number}", 0]}
        prompt = {"clip": ["mini", 1], "text": changes.get("text", "a frog")}
        nodes |= {
            f"prompt {number}": {"class_type": "InstDiffEncodeEditPrompt", "inputs": prompt},
            f"sampler {number}": {
                "class_type": "KSampler",
                "inputs": widgets | links | {name: changes[name] for name in changes.keys() & {*widgets, *links}},
            },
            f"mask {number}": {
                "class_type": "InstDiffRefineMask",
                "inputs": settings | {name: changes[name] for name in changes.keys() & {"threshold"}},
            },
        }
    return nodes


MASKS: dict[str, Pixels] = {}
"""What `alone` gave: the same by every server."""


def alone(server: Server, changes: dict[str, Any]) -> Pixels:
    """The mask of a sampling with a guidance of its own: Masked Sampler's."""
    name = json.dumps(changes, sort_keys=True)
    if name not in MASKS:
        nodes = graph(changes)
        sampler = nodes["sampler 0"] | {"class_type": "InstDiffMaskedSampler"}
        sampler["inputs"] |= {"model": ["mini", 0], "latent_image": ["latent", 0]}
        nodes["mask 0"]["inputs"] |= {"attention": ["sampler 0", 2]}
        del nodes["mask 0"]["inputs"]["sampled"], nodes["guidance"]
        MASKS[name] = server.run(nodes | {"sampler 0": sampler}).picture("mask 0")
    return MASKS[name]


FIRST, SECOND = {"seed": 11}, {"seed": 12, "text": "a tree"}


def test_of_two_samplers_of_which_one_is_changed_each_has_its_own(caching):
    wanted = alone(caching, FIRST), alone(caching, SECOND)
    assert not np.array_equal(*wanted)
    for second in (SECOND, SECOND | {"cfg": 6.0}):
        run = caching.run(graph(FIRST, second))
        assert np.array_equal(run.picture("mask 0"), wanted[0])
        assert np.array_equal(run.picture("mask 1"), alone(caching, second))
    run = caching.run(graph(FIRST | {"threshold": 0.6}, SECOND))
    assert np.array_equal(run.picture("mask 0"), alone(caching, FIRST | {"threshold": 0.6}))
    assert np.array_equal(run.picture("mask 1"), wanted[1])


def test_an_earlier_seed_with_a_new_threshold_gives_that_seeds_mask(caching):
    for changes in (FIRST, SECOND, FIRST | {"threshold": 0.65}, SECOND | {"threshold": 0.35}):
        assert np.array_equal(caching.run(graph(changes)).picture("mask 0"), alone(caching, changes))


@pytest.mark.parametrize("changes", [{"model": ["mini", 0]}, {"denoise": 0.0}])
def test_a_sampler_that_is_no_longer_guided_has_no_mask_of_an_earlier_run(caching, changes):
    caching.run(graph(FIRST))
    with pytest.raises(Failed, match="'sampled' was not made with Instant Mask Guidance"):
        caching.run(graph(FIRST | changes))


def test_after_a_refused_run_the_next_mask_is_its_own(caching):
    caching.run(graph(FIRST))
    refused = graph(SECOND)
    refused["prompt 0"]["class_type"] = "CLIPTextEncode"
    with pytest.raises(Failed, match="carries no words"):
        caching.run(refused)
    changes = FIRST | {"threshold": 0.6}
    assert np.array_equal(caching.run(graph(changes)).picture("mask 0"), alone(caching, changes))


def test_a_guidance_that_sampled_twice_asks_which_is_meant(caching):
    nodes = graph(FIRST, SECOND)
    for number in range(2):
        decode = {"samples": [f"sampler {number}", 0], "vae": ["mini", 2]}
        nodes[f"decode {number}"] = {"class_type": "VAEDecode", "inputs": decode}
        del nodes[f"mask {number}"]
    both = {"image1": ["decode 0", 0], "image2": ["decode 1", 0]}
    heatmaps = {"attention": ["guidance", 2], "colormap": "viridis", "opacity": 0.7, "steps": 0, "image": ["both", 0]}
    nodes |= {
        "both": {"class_type": "ImageBatch", "inputs": both},
        "heatmaps": {"class_type": "InstDiffAttentionHeatmaps", "inputs": heatmaps},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["heatmaps", 0]}},
    }
    with pytest.raises(Failed, match="has sampled more than once: connect the LATENT"):
        caching.run(nodes)
