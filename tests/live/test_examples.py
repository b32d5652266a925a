"""The files that ComfyUI's template browser shows for this pack."""

from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).resolve().parent.parent.parent / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("example", EXAMPLES, ids=[each.stem for each in EXAMPLES])
def test_an_example_workflow_has_its_picture(example):
    with Image.open(example.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"


def test_the_server_offers_the_examples(server):
    offered = server.get("/workflow_templates").decode()
    assert all(each.stem in offered for each in EXAMPLES)
