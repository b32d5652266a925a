"""The pictures of the nodes that the README and the help pages show.

The tests only take them; this stores them:
``INSTDIFF_PICTURES=web/docs/images python -m pytest tests/live/test_pictures.py``
"""

import json
import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.live.frontend import ROOT, opened, template

STORED = ROOT / "web" / "docs" / "images"
WORKFLOWS = ("edit_with_text", "compare_with_diffedit", "own_sampler", "heatmaps")
"""Each node is shown as it is after a run of the first of these that has it."""
KINDS = {
    name: {node["type"] for node in json.loads(template(name).read_text(encoding="utf-8"))["nodes"]}
    for name in WORKFLOWS
}


ALONE = ("InstDiffFindInPhoto", "InstDiffCropToEdit", "InstDiffPutBack", "InstDiffEditGuard")
"""Nodes of none of these, which show no result."""


def store(node, file):
    """Keep the picture of a node."""
    with Image.open(BytesIO(node.screenshot())) as screenshot:
        picture = screenshot.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    picture.save(file, optimize=True)
    assert len(picture.getcolors() or []) > 30
    assert file.stat().st_size < 150_000


@pytest.fixture(scope="module")
def page(browser, page_server):
    with opened(browser, page_server, "vue", scale=1.5) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = os.environ.get("INSTDIFF_PICTURES")
    return Path(place) if place else tmp_path_factory.mktemp("pictures")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_node_has_its_picture(frontend, folder, name):
    folder.mkdir(exist_ok=True)
    # the samplers of the first show their preview; elsewhere it would stand beside the picture of an output node
    frontend.set("Comfy.Execution.PreviewMethod", "latent2rgb" if name == WORKFLOWS[0] else "none")
    frontend.server.post("/free", {"free_memory": True})  # a sampler that need not run again has no preview
    frontend.load(name)
    if not os.environ.get("INSTDIFF_PICTURES"):
        frontend.sample_in(2)
    frontend.run()
    before = set().union(*(KINDS[other] for other in WORKFLOWS[: WORKFLOWS.index(name)]))
    for kind in sorted(each for each in KINDS[name] - before if each.startswith("InstDiff")):
        node = frontend.node(kind)
        node.evaluate("node.title = node.constructor.title")
        store(node, folder / f"{kind}.png")


@pytest.mark.parametrize("kind", ALONE)
def test_a_node_that_shows_no_result_has_its_picture(frontend, folder, kind):
    folder.mkdir(exist_ok=True)
    frontend.load(WORKFLOWS[0])
    frontend.page.evaluate("app.graph.clear()")
    store(frontend.add(kind), folder / f"{kind}.png")


def test_every_node_with_a_help_page_has_its_stored_picture():
    assert {each.stem for each in STORED.glob("*.png")} == {each.stem for each in STORED.parent.glob("*.md")}
