"""The pack in a real ComfyUI: it loads, its workflows run, and what a user does next works too."""

import re

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.nodes.test_guiders import GUIDERS

MASK_OVER_OBJECT = 0.4
"""Least IoU of the instant mask and the object's exact mask, both workflows."""

CHANGED_INSIDE = 0.5
"""Least share of the pixels in the mask that the edit changes."""

MODEL, SAMPLER, REFINE = "InstDiffLoadMiniModel", "InstDiffMaskedSampler", "InstDiffRefineMask"
FINISH = "InstDiffInpaintFinish"


@pytest.fixture
def edit(workflow):
    """edit_with_text.json, with the masks of the edit and of the object saved too."""
    graph = workflow("edit_with_text")
    save(graph, "mask", [REFINE, 0])
    save(graph, "object", ["InstDiffMiniScene", 1])
    return graph


@pytest.fixture
def quick(edit):
    """The same in few steps, where what comes out need not be good."""
    for name in (SAMPLER, FINISH):
        edit[name]["inputs"]["steps"] = 6
    return edit


def save(graph, name, mask):
    graph[f"{name} image"] = {"class_type": "MaskToImage", "inputs": {"mask": mask}}
    graph[name] = {"class_type": "SaveImage", "inputs": {"images": [f"{name} image", 0], "filename_prefix": name}}


def only(graph, *outputs):
    """The part of a workflow that makes these outputs."""
    kept = list(outputs)
    for name in kept:
        kept += [value[0] for value in graph[name]["inputs"].values() if isinstance(value, list)]
    return {name: graph[name] for name in kept}


def plain(graph, server):
    """KSampler on the model of `graph`, made to run again and not from the host's cache."""
    inputs = dict(graph[SAMPLER]["inputs"])
    del inputs["settings"]
    latent = {"samples": inputs["latent_image"], "batch_index": 0, "length": server.again()}
    return only(
        graph
        | {
            "same": {"class_type": "LatentFromBatch", "inputs": latent},
            "plain": {"class_type": "KSampler", "inputs": inputs | {"latent_image": ["same", 0]}},
            "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["plain", 0], "vae": [MODEL, 2]}},
            "picture": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "plain"}},
        },
        "picture",
    )


def run_plain(graph, server):
    run = server.run(plain(graph, server))
    assert "plain" not in run.cached
    return run.picture("picture")


def binary(picture):
    return picture[..., 0] > 127


def iou(first, second):
    return (first & second).sum() / max((first | second).sum(), 1)


def test_every_guider_of_the_host_is_among_those_whose_masks_are_tested(server):
    guiders = {name for name, node in server.nodes.items() if "GUIDER" in node["output"]}
    assert guiders <= {title.split()[0] for title in GUIDERS}


def test_the_pack_loads_without_a_warning(server):
    assert {name for name in server.nodes if name.startswith("InstDiff")} >= {
        "InstDiffMaskedSampler",
        "InstDiffInpaintFinish",
        "InstDiffLoadMiniModel",
    }
    loading = server.log.split("got prompt")[0]
    assert "inst diff-edit.v1" in loading
    assert not re.search(r"IMPORT FAILED|Cannot import|Traceback|Invalid", loading)
    about_us = [line for line in loading.splitlines() if "inst diff-edit.v1" in line or "instdiff" in line.lower()]
    assert not [line for line in about_us if re.search(r"warn|error|fail|skip", line, re.IGNORECASE)]


def test_the_edit_changes_the_masked_area_and_no_other_pixel(server, edit):
    run = server.run(edit)
    before, after, mask = run.picture("Before"), run.picture("After"), binary(run.picture("mask"))
    assert before.shape == after.shape == (256, 256, 3)
    assert mask.any()
    grow = edit[FINISH]["inputs"]["grow"]
    area = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * grow + 1))) > 0
    assert not area.all()
    changed = (before != after).any(-1)
    assert not changed[~area].any()
    assert changed[mask].mean() > CHANGED_INSIDE


def test_the_mask_of_the_edit_is_over_the_object(server, edit):
    run = server.run(edit)
    assert iou(binary(run.picture("mask")), binary(run.picture("object"))) >= MASK_OVER_OBJECT


@pytest.mark.one_host
def test_retune_mask_gives_masks_over_the_object(server, workflow):
    graph = workflow("retune_mask")
    save(graph, "object", ["InstDiffMiniScene", 1])
    save(graph, "found", ["As sampled", 0])
    graph["A higher threshold"]["inputs"] |= {"threshold": 0, "words": "car"}
    save(graph, "named", ["A higher threshold", 0])
    run = server.run(graph)
    for shown in (name for name, node in graph.items() if node["class_type"] == REFINE):
        assert run.picture(shown).any(), f"{shown} shows its mask"
    for mask in ("found", "named"):
        assert iou(binary(run.picture(mask)), binary(run.picture("object"))) >= MASK_OVER_OBJECT


def test_retuning_does_not_sample_again(server, workflow):
    graph = workflow("retune_mask")
    save(graph, "mask", ["As sampled", 0])
    graph = only(graph, "mask")
    first = binary(server.run(graph).picture("mask"))
    graph["As sampled"]["inputs"]["threshold"] = 0.7
    run = server.run(graph)
    assert SAMPLER in run.cached
    assert "As sampled" not in run.cached
    assert binary(run.picture("mask")).sum() < first.sum()


@pytest.mark.one_host
def test_another_seed_gives_another_picture_and_the_same_seed_the_same(server, quick):
    sampler, finish = quick[SAMPLER]["inputs"], quick[FINISH]["inputs"]
    first = server.run(only(quick, "After")).picture("After")
    sampler["seed"] = finish["seed"] = 8
    assert (server.run(only(quick, "After")).picture("After") != first).any()
    sampler["seed"] = finish["seed"] = 3
    assert (server.run(only(quick, "After")).picture("After") == first).all()


def test_k_sampler_after_an_edit_gives_what_it_gave_before(server, quick):
    before = run_plain(quick, server)
    quick[SAMPLER]["inputs"]["seed"] = 21
    run = server.run(only(quick, "mask"))
    assert MODEL in run.cached, "the edit was made with the same loaded model"
    assert SAMPLER not in run.cached
    quick[SAMPLER]["inputs"]["seed"] = 3
    assert (run_plain(quick, server) == before).all()


def test_an_interrupted_edit_leaves_nothing_behind(server, quick):
    before = run_plain(quick, server)
    quick[SAMPLER]["inputs"]["steps"] = 61
    server.interrupt_half_way(only(quick, "mask"), 61)
    quick[SAMPLER]["inputs"]["steps"] = 6
    assert (run_plain(quick, server) == before).all()
    assert server.run(only(quick, "mask")).picture("mask").any(), "the same edit runs again"
