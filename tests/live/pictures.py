"""The pictures of the nodes that the README and the help pages show.

These are no tests that pytest finds by itself. This takes the pictures, and stores them:
``python -m pytest tests/live/pictures.py``
"""

import json
from io import BytesIO

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


def store(node, kind):
    """Keep the picture of a node of this type."""
    file = STORED / f"{kind}.png"
    with Image.open(BytesIO(node.screenshot())) as screenshot:
        picture = screenshot.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    picture.save(file, optimize=True)
    assert len(picture.getcolors() or []) > 30
    assert file.stat().st_size < 150_000


@pytest.fixture(scope="module")
def page(browser, page_server):
    with opened(browser, page_server, "vue", scale=1.5) as page:
        yield page


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_node_has_its_picture(frontend, name):
    # the samplers of the first show their preview; elsewhere it would stand beside the picture of an output node
    frontend.set("Comfy.Execution.PreviewMethod", "latent2rgb" if name == WORKFLOWS[0] else "none")
    frontend.server.post("/free", {"free_memory": True})  # a sampler that need not run again has no preview
    frontend.load(name)
    frontend.run()
    before = set().union(*(KINDS[other] for other in WORKFLOWS[: WORKFLOWS.index(name)]))
    for kind in sorted(each for each in KINDS[name] - before if each.startswith("InstDiff")):
        node = frontend.node(kind)
        node.evaluate("node.title = node.constructor.title")
        store(node, kind)


@pytest.mark.parametrize("kind", ALONE)
def test_a_node_that_shows_no_result_has_its_picture(frontend, kind):
    frontend.load(WORKFLOWS[0])
    frontend.page.evaluate("app.graph.clear()")
    store(frontend.add(kind), kind)
