"""The files that ComfyUI's template browser shows for this pack."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent.parent / "example_workflows"
EXAMPLES = {each.stem: json.loads(each.read_text(encoding="utf-8")) for each in sorted(FOLDER.glob("*.json"))}


def models(name):
    """The files of models that an example needs, and says so to the frontend."""
    return {model["name"] for node in EXAMPLES[name]["nodes"] for model in node["properties"].get("models", [])}


COMPLETE = [name for name in EXAMPLES if not models(name)]
WITH_MODELS = [name for name in EXAMPLES if models(name)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_its_picture(name):
    with Image.open(FOLDER / f"{name}.jpg") as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_does_and_what_to_try(name):
    (note,) = (node for node in EXAMPLES[name]["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    assert re.search("^Try", text, re.MULTILINE)
    assert all(model in text for model in models(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_nothing_of_the_machine_that_made_it(name):
    assert not re.search(r'"(/|~|[A-Z]:)|\\\\|file:|localhost', json.dumps(EXAMPLES[name]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_node_of_an_example_is_comfyuis_or_ours(server, name):
    types = {node["type"] for node in EXAMPLES[name]["nodes"]} - {"MarkdownNote"}
    assert types <= set(server.nodes)


def test_the_server_offers_the_examples(server):
    offered = json.loads(server.get("/workflow_templates"))
    assert [set(EXAMPLES)] == [set(names) for names in offered.values() if "edit_with_text" in names]


@pytest.mark.parametrize("name", COMPLETE)
def test_an_example_runs_as_it_is(server, workflow, name):
    graph = workflow(name)
    run = server.run(graph)
    shown = [node for node in graph if run.outputs.get(node, {}).get("images")]
    assert shown
    assert all(run.picture(node).any() for node in shown)


@pytest.mark.parametrize("name", WITH_MODELS)
def test_an_example_lacks_its_models_and_nothing_else(server, host_path, workflow, failed, name):
    shutil.copy(host_path / "input" / "example.png", server.log_file.parent / "input")
    with pytest.raises(failed) as refusal:
        server.run(workflow(name))
    wrong = [each for node in json.loads(str(refusal.value))["node_errors"].values() for each in node["errors"]]
    assert {each["type"] for each in wrong} == {"value_not_in_list"}
    assert {each["extra_info"]["received_value"] for each in wrong} == models(name)
