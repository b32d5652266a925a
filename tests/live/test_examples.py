"""The templates of this pack: the files that ComfyUI's template browser shows."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter

from instdiff_core.mini.scenes import compose
from tests.live.conftest import SLIDER
from tests.live.frontend import TEMPLATES, template

EXAMPLES = {
    name: json.loads(template(name).read_text(encoding="utf-8"))
    for name in (each.partition("_")[2] for each in TEMPLATES)
}


def models(name):
    """The files of models that an example needs, and says so to the frontend."""
    return {model["name"] for node in EXAMPLES[name]["nodes"] for model in node["properties"].get("models", [])}


COMPLETE = [name for name in EXAMPLES if not models(name)]
WITH_MODELS = [name for name in EXAMPLES if models(name)]
ON_A_CHECKPOINT = [
    name for name in WITH_MODELS if "CheckpointLoaderSimple" in {node["type"] for node in EXAMPLES[name]["nodes"]}
]
"""Those that the embedded model can run; tests/nodes/joint/test_templates.py runs the others."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_its_picture(name):
    with Image.open(template(name).with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert np.asarray(picture.convert("L")).mean() > 60  # pictures on white, and no dark page


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_does_and_what_to_try(name):
    (note,) = (node for node in EXAMPLES[name]["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    assert re.search("^# Try", text, re.MULTILINE)
    assert all(model in text for model in models(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_nothing_of_the_machine_that_made_it(name):
    assert not re.search(r'"(/|~|[A-Z]:)|\\\\|file:|localhost', json.dumps(EXAMPLES[name]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_node_of_an_example_is_comfyuis_or_ours(server, name):
    types = {node["type"] for node in EXAMPLES[name]["nodes"]} - {"MarkdownNote", SLIDER}
    assert types <= set(server.nodes)


def test_the_server_offers_the_examples(server):
    offered = json.loads(server.get("/workflow_templates"))
    assert [sorted(names) for names in offered.values() if TEMPLATES[0] in names] == [TEMPLATES]


def test_the_first_template_needs_no_download_and_the_largest_is_not_among_the_first():
    assert next(iter(EXAMPLES)) in COMPLETE
    assert list(EXAMPLES).index("sdxl") >= 8


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_node_of_an_example_is_deprecated_in_the_host(server, name):
    types = {node["type"] for node in EXAMPLES[name]["nodes"]} & set(server.nodes)
    assert not [each for each in types if server.nodes[each].get("deprecated")]


@pytest.mark.parametrize(
    ("name", "word"), [("change_background", "dog"), ("change_background", "water"), ("inpainting_finish", "snowman")]
)
def test_what_models_and_steps_share_is_typed_once(workflow, name, word):
    texts = [node["inputs"].get(key, "") for node in workflow(name).values() for key in ("text", "value")]
    assert sum(word in each for each in texts if isinstance(each, str)) == 1


def widened(mask, by):
    """The white of a picture of a mask, with so many pixels around it, ``[h, w]``."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(2 * by + 1)))[..., 0] > 0


@pytest.mark.one_host
@pytest.mark.parametrize("name", ON_A_CHECKPOINT)
def test_a_photo_is_given_back_whole_and_unchanged_outside_the_mask(server, workflow, name):
    graph = workflow(name, steps=3)
    for node in graph.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="InstDiffLoadMiniModel", inputs={})
        if node["class_type"] == "InstDiffMaskedSampler":
            node["inputs"]["denoise"] = 0.5  # transformers take less, the embedded model is none
        if node["class_type"] == "ImageScale":
            node["inputs"]["width"] = 301
    photo = compose(np.random.default_rng(4), ["car"], "grass", size=301)[0][20:271]
    Image.fromarray(photo).save(server.log_file.parent / "input" / "photo.png")
    graph["LoadImage"]["inputs"]["image"] = "photo.png"
    mask = ["InstDiffRefineMask", 0] if "InstDiffRefineMask" in graph else ["InstDiffPutBack", 1]
    graph["mask"] = {"class_type": "MaskPreview", "inputs": {"mask": mask}}
    run = server.run(graph)
    result = run.picture("After")
    assert result.shape == photo.shape
    grow = graph["InstDiffInpaintFinish"]["inputs"]["grow"] if "InstDiffRefineMask" in graph else 0
    grown = widened(run.picture("mask"), grow)
    missing = np.subtract(photo.shape[:2], grown.shape)  # of whole latent pixels, from the middle
    grown = np.pad(grown, [(each // 2, each - each // 2) for each in missing], "edge")
    assert (result[~grown] == photo[~grown]).all()
    assert 0.02 < grown.mean() < 0.9
    assert (result[grown] != photo[grown]).any()


@pytest.mark.one_host
def test_the_second_pass_of_hires_fix_enlarges_the_picture_and_stays_inside_the_first_mask(server, workflow):
    graph = workflow("hires_fix", steps=5)
    show = {"first": "LatentUpscaleBy", "second": "Second pass"}
    for name, node in show.items():
        graph[f"decoded {name}"] = {
            "class_type": "VAEDecode",
            "inputs": {"samples": [node, 0], "vae": ["InstDiffLoadMiniModel", 2]},
        }
        graph[name] = {"class_type": "PreviewImage", "inputs": {"images": [f"decoded {name}", 0]}}
    graph["mask"] = {"class_type": "MaskPreview", "inputs": {"mask": ["GrowMask", 0]}}
    graph["enlarged"] = {"class_type": "PreviewImage", "inputs": {"images": ["Picture at the new size", 0]}}
    run = server.run(graph)
    first, second, after, enlarged = (run.picture(name) for name in ("first", "second", "After", "enlarged"))
    near = widened(np.asarray(Image.fromarray(run.picture("mask")).resize(first.shape[1::-1])), 2)
    assert after.shape[0] == 1.5 * run.picture("Before").shape[0]
    assert (after[~near] == enlarged[~near]).all()
    assert (np.abs(first.astype(int) - second)[~near] > 8).mean() < 0.01
    assert (np.abs(first.astype(int) - second)[near] > 8).mean() > 0.2


@pytest.mark.parametrize("name", COMPLETE)
def test_an_example_runs(server, workflow, name):
    graph = workflow(name, steps=2)
    run = server.run(graph)
    shown = [node for node in graph if run.outputs.get(node, {}).get("images")]
    assert shown
    assert all(run.picture(node).any() for node in shown)


@pytest.mark.one_host
def test_edit_guard_keeps_all_but_the_edit_of_a_picture_that_was_distorted(server, workflow):
    graph = workflow("edit_guard")
    graph["before"] = {"class_type": "PreviewImage", "inputs": {"images": ["InstDiffMiniScene", 0]}}
    graph["area"] = {"class_type": "MaskPreview", "inputs": {"mask": ["InstDiffEditGuard", 1]}}
    run = server.run(graph)
    before, after, area = run.picture("before"), run.picture("After"), run.picture("area")[..., 0] > 0
    assert "refused" not in run.outputs["Report"]["text"][0]
    assert 0.05 < area.mean() < 0.5
    assert (after[~area] == before[~area]).all()
    assert (np.abs(after.astype(int) - before)[area] > 30).any(-1).mean() > 0.5


@pytest.mark.parametrize("name", WITH_MODELS)
def test_an_example_lacks_its_models_and_nothing_else(server, host_path, workflow, failed, name):
    shutil.copy(host_path / "input" / "example.png", server.log_file.parent / "input")
    with pytest.raises(failed) as refusal:
        server.run(workflow(name))
    wrong = [each for node in json.loads(str(refusal.value))["node_errors"].values() for each in node["errors"]]
    assert {each["type"] for each in wrong} == {"value_not_in_list"}
    assert {each["extra_info"]["received_value"] for each in wrong} == models(name)
