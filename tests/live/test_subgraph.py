"""Edit with Text and Edit a Photo: subgraphs, which ComfyUI finds in the pack's folder of that name."""

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "subgraphs"
WIDGETS = {
    "Edit with Text": ["prompt", "strength", "threshold", "seed"],
    "Edit a Photo": ["prompt", "strength", "seed"],
}
OPTIONAL = {"Edit with Text": [], "Edit a Photo": ["hint"]}
FROM_OUTSIDE, TO_OUTSIDE = -10, -20
"""What the links of a subgraph have in the place of a node, at its border."""

SOURCES = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "image": ["photo", 0]}


@pytest.fixture(params=WIDGETS)
def saved(request):
    """What the file of a subgraph holds."""
    return json.loads((FOLDER / f"{request.param}.json").read_text(encoding="utf-8"))


@pytest.fixture
def placed(saved):
    """The node that stands for the subgraph."""
    (node,) = saved["nodes"]
    return node


@pytest.fixture
def inside(saved):
    """The subgraph."""
    (subgraph,) = saved["definitions"]["subgraphs"]
    return subgraph


def inputs(server, node):
    """The names of all inputs that the server knows of a node's type."""
    return {name for group in server.nodes[node["type"]]["input"].values() for name in group}


def flat(server, placed, inside, side):
    """The subgraph between Load Mini Model, a picture of Mini Scene and two previews, as /prompt takes it."""
    size = {"width": side, "height": side, "upscale_method": "bicubic", "crop": "disabled"}
    graph: dict[str, Any] = {
        "model": {"class_type": "InstDiffLoadMiniModel", "inputs": {}},
        "scene": {"class_type": "InstDiffMiniScene", "inputs": {"object": "cat", "background": "grass", "seed": 8}},
        "photo": {"class_type": "ImageScale", "inputs": {"image": ["scene", 0], **size}},
    }
    for node in inside["nodes"]:
        known = inputs(server, node)
        typed = {name: value for name, value in node.get("widgets_values_named", {}).items() if name in known}
        if typed.get("steps"):
            typed["steps"] = 3
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": typed}
    ends = {}
    for link in inside["links"]:
        source = [str(link["origin_id"]), link["origin_slot"]]
        if link["origin_id"] == FROM_OUTSIDE:
            name = inside["inputs"][link["origin_slot"]]["name"]
            if name in OPTIONAL[inside["name"]]:
                continue
            source = SOURCES.get(name) or placed["widgets_values_named"][name]
        if link["target_id"] == TO_OUTSIDE:
            ends[inside["outputs"][link["target_slot"]]["name"]] = source
            continue
        (target,) = (node for node in inside["nodes"] if node["id"] == link["target_id"])
        graph[str(target["id"])]["inputs"][target["inputs"][link["target_slot"]]["name"]] = source
    graph["mask image"] = {"class_type": "MaskToImage", "inputs": {"mask": ends["mask"]}}
    for name, source in {"image": ends["image"], "mask": ["mask image", 0], "before": ["photo", 0]}.items():
        graph[name] = {"class_type": "PreviewImage", "inputs": {"images": source}}
    return graph


def test_it_takes_a_picture_and_a_prompt_and_gives_a_picture_and_its_mask(placed):
    optional, widgets = OPTIONAL[placed["title"]], WIDGETS[placed["title"]]
    assert [each["name"] for each in placed["inputs"]] == [*SOURCES, *optional, *widgets]
    assert [each["name"] for each in placed["inputs"] if each.get("shape") == 7] == optional
    assert [(each["name"], each["type"]) for each in placed["outputs"]] == [("image", "IMAGE"), ("mask", "MASK")]


def test_a_server_that_knows_subgraphs_offers_them(server):
    try:
        offered = json.loads(server.get("/global_subgraphs"))
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI does not look for subgraphs")
    assert {each["name"] for each in offered.values() if each["source"] == "custom_node"} == set(WIDGETS)


def test_it_has_the_name_of_its_file(request, placed, inside):
    assert request.node.callspec.params["saved"] == placed["title"] == inside["name"]
    assert placed["type"] == inside["id"]


def test_every_input_inside_exists(server, inside):
    for node in inside["nodes"]:
        assert {each["name"] for each in node["inputs"]} <= inputs(server, node), node["type"]


def test_what_is_inside_makes_a_picture_and_a_mask(server, placed, inside):
    run = server.run(flat(server, placed, inside, 256 if placed["title"] == "Edit with Text" else 640))
    before, after, mask = (run.picture(name) for name in ("before", "image", "mask"))
    assert mask.any()
    assert not mask.all()
    assert after.shape == before.shape == mask.shape
    assert (after != before)[mask > 0].any()
    if placed["title"] == "Edit a Photo":
        assert (after == before)[mask == 0].all()


def test_it_is_found_by_its_name_placed_and_run(frontend, placed):
    page = frontend.page
    page.evaluate("app.graph.clear()")
    frontend.command("Workspace.SearchBox.Toggle")
    page.get_by_role("combobox", name="Add a node").fill(placed["title"].lower())
    page.get_by_role("option", name=placed["title"]).first.click()
    page.mouse.click(600, 300)
    page.wait_for_function("app.graph.nodes.length === 1")
    edit = frontend.node(placed["title"])
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
    frontend.sample_in(2)
    run = frontend.run()
    assert run.picture(str(image.number)).any()
    assert run.picture(str(mask.number)).any()
