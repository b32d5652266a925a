"""What users saved with a released version keeps loading.

``tests/released/<version>`` is what that version came with: its example workflows, and of every node the
inputs with their types (or their choices), the widgets in the order of ``widgets_values``, and the outputs. A
release adds a folder by ``python -m tests.released``; none is ever changed. ``results`` are masks and pictures that
the workflows give in a few steps, by the names of their nodes; those of the embedded model change with its weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.live.frontend import EXAMPLES

STEPS = 4
"""Those of the stored results."""
ROUNDING = 2
"""How much values of 0 to 255 may be apart."""

RELEASES = sorted(file.parent for file in (Path(__file__).resolve().parent.parent / "released").glob("*/nodes.json"))


def is_still_a_template(file):
    """Whether the tests of the templates open and run this very workflow."""
    template = EXAMPLES / file.name
    return template.exists() and template.read_bytes() == file.read_bytes()


WORKFLOWS = [
    pytest.param(file, id=f"{release.name}-{file.stem}")
    for release in RELEASES
    for file in sorted((release / "workflows").glob("*.json"))
    if not is_still_a_template(file)
]
"""None of them needs the file of a model."""
NODES = [
    pytest.param(kind, node, id=f"{release.name}-{kind}")
    for release in RELEASES
    for kind, node in json.loads((release / "nodes.json").read_text(encoding="utf-8")).items()
]


@pytest.mark.parametrize(("kind", "released"), NODES)
def test_a_released_node_still_has_its_inputs(server, kind, released):
    inputs = {name: each for group in server.nodes[kind]["input"].values() for name, each in group.items()}
    for name, expected in released["inputs"].items():
        type_, options = [*inputs[name], {}][:2]
        choices = type_ if isinstance(type_, list) else options.get("options", ())
        if isinstance(expected, list):
            assert set(expected) <= set(choices), name
        else:
            assert expected == ("COMBO" if choices else type_), name


@pytest.mark.parametrize(("kind", "released"), NODES)
def test_values_of_a_released_node_still_land_on_their_widgets(server, kind, released):
    assert server.widgets(kind)[: len(released["widgets"])] == released["widgets"]


@pytest.mark.parametrize(("kind", "released"), NODES)
def test_links_from_a_released_node_still_find_their_outputs(server, kind, released):
    node = server.nodes[kind]
    outputs = [list(each) for each in zip(node["output_name"], node["output"], strict=True)]
    assert outputs[: len(released["outputs"])] == released["outputs"]


@pytest.mark.parametrize("file", WORKFLOWS)
def test_a_released_workflow_gives_the_masks_and_pictures_that_it_gave(server, workflow, file):
    run = server.run(workflow(file, steps=STEPS))
    assert run.outputs
    for stored in (file.parent.parent / "results" / file.stem).glob("*.png"):
        with Image.open(stored) as picture:
            difference = np.abs(np.asarray(picture).astype(int) - run.picture(stored.stem))
        # the processor's rounding may move a pixel
        assert (difference > ROUNDING).mean() < 0.002, stored.stem
