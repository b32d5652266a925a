"""The node Edit with Text: a subgraph, which ComfyUI finds in the pack's folder of that name."""

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parent.parent.parent / "subgraphs" / "Edit with Text.json"
SAVED = json.loads(FILE.read_text(encoding="utf-8"))
(NODE,) = SAVED["nodes"]
(INSIDE,) = SAVED["definitions"]["subgraphs"]
FROM_OUTSIDE, TO_OUTSIDE = -10, -20
"""What the links of a subgraph have in the place of a node, at its border."""

SOURCES = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "image": ["scene", 0]}


def inputs(server, node):
    """The names of all inputs that the server knows of a node's type."""
    return {name for group in server.nodes[node["type"]]["input"].values() for name in group}


def flat(server):
    """The subgraph between Load Mini Model, Mini Scene and two previews, as /prompt takes it."""
    graph: dict[str, Any] = {
        "model": {"class_type": "InstDiffLoadMiniModel", "inputs": {}},
        "scene": {"class_type": "InstDiffMiniScene", "inputs": {"object": "cat", "background": "grass", "seed": 8}},
    }
    for node in INSIDE["nodes"]:
        known = inputs(server, node)
        typed = {name: value for name, value in node.get("widgets_values_named", {}).items() if name in known}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": typed}
    ends = {}
    for link in INSIDE["links"]:
        source = [str(link["origin_id"]), link["origin_slot"]]
        if link["origin_id"] == FROM_OUTSIDE:
            name = INSIDE["inputs"][link["origin_slot"]]["name"]
            source = SOURCES.get(name) or NODE["widgets_values_named"][name]
        if link["target_id"] == TO_OUTSIDE:
            ends[INSIDE["outputs"][link["target_slot"]]["name"]] = source
            continue
        (target,) = (node for node in INSIDE["nodes"] if node["id"] == link["target_id"])
        graph[str(target["id"])]["inputs"][target["inputs"][link["target_slot"]]["name"]] = source
    graph["mask image"] = {"class_type": "MaskToImage", "inputs": {"mask": ends["mask"]}}
    for name, source in {"image": ends["image"], "mask": ["mask image", 0]}.items():
        graph[name] = {"class_type": "PreviewImage", "inputs": {"images": source}}
    return graph


def test_it_takes_a_picture_and_a_prompt_and_gives_a_picture_and_its_mask():
    assert [each["name"] for each in NODE["inputs"]] == [*SOURCES, "prompt", "strength", "threshold", "seed"]
    assert [(each["name"], each["type"]) for each in NODE["outputs"]] == [("image", "IMAGE"), ("mask", "MASK")]


def test_a_server_that_knows_subgraphs_offers_it(server):
    try:
        offered = json.loads(server.get("/global_subgraphs"))
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI does not look for subgraphs")
    (name,) = (each["name"] for each in offered.values() if each["source"] == "custom_node")
    assert name == FILE.stem == NODE["title"] == INSIDE["name"]


def test_every_input_inside_exists(server):
    for node in INSIDE["nodes"]:
        assert {each["name"] for each in node["inputs"]} <= inputs(server, node), node["type"]


def test_what_is_inside_makes_a_picture_and_a_mask(server):
    run = server.run(flat(server))
    mask = run.picture("mask")
    assert mask.any()
    assert not mask.all()
    assert run.picture("image").shape == mask.shape


def test_it_is_found_by_its_name_placed_and_run(frontend):
    page = frontend.page
    page.evaluate("app.graph.clear()")
    page.mouse.dblclick(600, 600)
    page.get_by_role("combobox", name="Add a node").fill("edit with text")
    page.get_by_role("option", name="Edit with Text").first.click()
    page.mouse.click(600, 300)
    page.wait_for_function("app.graph.nodes.length === 1")
    edit = frontend.node(NODE["title"])
    edit.set("prompt", "a frog")
    model, scene, image, mask = (
        frontend.add(kind) for kind in ("InstDiffLoadMiniModel", "InstDiffMiniScene", "PreviewImage", "MaskPreview")
    )
    connect = "node.connect(argument[0], app.graph.getNodeById(argument[1]), argument[2])"
    for slot in range(3):
        model.evaluate(connect, [slot, edit.number, slot])
    scene.evaluate(connect, [0, edit.number, 3])
    edit.evaluate(connect, [0, image.number, 0])
    edit.evaluate(connect, [1, mask.number, 0])
    run = frontend.run()
    assert run.picture(str(image.number)).any()
    assert run.picture(str(mask.number)).any()
