"""The editor as a part of its node: its inputs, saved workflows, copies, subgraphs, and the host's own mask editor."""

import pytest

from tests.live.widget.editor import ANY_RENDERER, NODE, WAITING, Editor, edit, workflow

OPEN = "void app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')"
GROWN = """([least]) => {
    const [, , mask] = document.querySelectorAll('.mask-editor-dialog canvas')
    if (!mask?.width) return false
    const { data } = mask.getContext('2d').getImageData(0, 0, mask.width, mask.height)
    const area = data.reduce((sum, value, at) => sum + (at % 4 === 3 && value > 127), 0)
    return area > least && area
}"""
"""How much is masked in the host's editor, once it is more than at least."""


def test_before_a_run_the_editor_says_how_to_get_a_mask(frontend):
    frontend.load(workflow())
    editor = Editor(frontend)
    editor.node.show()
    assert editor.element.inner_text() == WAITING


def test_typing_in_the_inputs_moves_the_editor(editor):
    editor.node.set("threshold", 0.7)
    editor.node.set("words", "Grass, tree")
    editor.node.set("steps", 2)
    editor.settle()
    assert editor.threshold.input_value() == "0.7"
    assert editor.step.input_value() == "2"
    assert editor.word("grass").get_attribute("aria-pressed") == "true"
    assert editor.origin == "“tree” is not in the edit prompt"


def test_what_another_node_sets_cannot_be_moved_here(frontend, editor):
    edit(
        frontend,
        "const other = LiteGraph.createNode('PrimitiveFloat'); app.graph.add(other);"
        "other.connect(0, node('InstDiffRefineMask'), 'threshold')",
    )
    frontend.settle()
    assert editor.threshold.is_disabled()
    assert editor.step.is_enabled()


def test_what_another_node_sets_is_seen_as_the_latest_run_had_it(frontend, editor):
    for kind, value, name in (("PrimitiveFloat", 0.8, "threshold"), ("PrimitiveString", "grass", "words")):
        other = frontend.add(kind)
        other.set("value", value)
        edit(frontend, f"app.graph.getNodeById({other.number}).connect(0, node('{NODE}'), '{name}')")
    run = frontend.run()
    editor.settle()
    assert editor.threshold.input_value() == "0.8"
    assert editor.word("grass").get_attribute("aria-pressed") == "true"
    assert editor.matches(run)
    editor.tool("Paint")
    editor.draw((0.2, 0.2), (0.4, 0.3))
    assert editor.corrections
    assert editor.inputs == {"threshold": 0, "words": "", "steps": 0}


def test_the_editor_works_inside_a_subgraph(frontend, editor):
    edit(frontend, "window.packed = app.graph.convertToSubgraph(new Set([node('InstDiffRefineMask')])).node")
    frontend.page.evaluate("app.canvas.openSubgraph(packed.subgraph, packed)")
    inside = "packed.subgraph.nodes[0]"
    frontend.page.evaluate(
        f"app.canvas.ds.scale = 1; app.canvas.ds.offset = {inside}.pos.map(place => 200 - place);"
        "app.canvas.setDirty(true, true)"
    )
    editor.threshold.fill("0.75")
    assert frontend.page.evaluate(f"{inside}.widgets.map(widget => widget.value).slice(0, 3)") == [0, 0.75, ""]
    area = editor.area()
    frontend.run()
    assert editor.area() == area
    frontend.page.evaluate("app.canvas.setGraph(app.rootGraph)")


def test_after_a_reload_the_editor_shows_the_same(frontend, editor):
    editor.threshold.fill("0.65")
    editor.word("car").click()
    area, inputs = editor.area(), editor.inputs
    frontend.page.wait_for_function(
        r'() => Object.values({ ...localStorage, ...sessionStorage }).some(each => /"car\\?"/.test(each))'
    )
    frontend.reload()
    editor.show()
    assert editor.inputs == inputs
    assert editor.area() == area


def test_the_saved_workflow_has_the_values_of_the_nodes_own_inputs(frontend, editor):
    editor.threshold.fill("0.6")
    (node,) = (node for node in frontend.workflow["nodes"] if node["type"] == NODE)
    assert node["widgets_values"] == [0, 0.6, "", 0, 0, False, "", 0]
    node.pop("widgets_values_named", None)
    old = {**node, "inputs": [], "outputs": [], "widgets_values": [2]}
    frontend.load({**frontend.workflow, "nodes": [old], "links": []})
    assert editor.inputs == {"threshold": 0, "words": "", "steps": 2}


def test_a_copy_of_the_node_has_an_editor_of_its_own(frontend, editor):
    editor.node.select()
    frontend.page.evaluate("app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard()")
    frontend.settle()
    copy = frontend.node(str(frontend.page.evaluate("app.graph.nodes.at(-1).id")))
    copy.evaluate("node.pos = argument", editor.node.evaluate("[node.pos[0] + node.size[0] + 20, node.pos[1]]"))
    editor.node.show()
    editor.element.nth(1).wait_for()
    editor.element.last.get_by_role("slider", name="Threshold").fill("0.9")
    editor.element.last.get_by_role("button", name="car").click()
    assert [copy.widgets()[name] for name in ("threshold", "words")] == [0.9, "car"]
    assert editor.inputs == {"threshold": 0, "words": "", "steps": 0}


def test_the_threshold_that_is_the_settings_says_so_above_and_below(editor):
    shown = editor.element.locator(".instdiff-value").first
    label = "node.widgets.find(each => each.name === 'threshold').label"
    assert shown.inner_text() == editor.threshold.get_attribute("aria-valuetext") == "0.50 (settings)"
    assert editor.node.evaluate(label) == "threshold (0: settings)"
    editor.threshold.fill("0.8")
    editor.frontend.settle()
    assert shown.inner_text() == "0.80"


def test_a_hundred_words_leave_the_picture_its_room(frontend, opened):
    editor = opened(" ".join(f"word{number}" for number in range(99)) + " " + "long" * 30)
    assert editor.words.count() >= 75
    toolbar = editor.element.get_by_role("toolbar", name="Words")
    assert toolbar.bounding_box()["height"] < 100
    assert editor.picture.bounding_box()["height"] > 120
    editor.words.first.focus()
    editor.press("End")
    toolbar_box, last = toolbar.bounding_box(), editor.words.last.bounding_box()
    assert toolbar_box["y"] <= last["y"] <= toolbar_box["y"] + toolbar_box["height"]
    assert last["width"] <= toolbar_box["width"]


def test_the_mask_is_not_shown_again_below_the_editor(frontend, editor):
    assert not editor.node.evaluate("node.imgs?.length")
    if frontend.vue:
        assert not editor.node.element.locator("img").count()


@ANY_RENDERER
@pytest.mark.parametrize(
    "run",
    [
        "gone",
        {"record": {"filename": "gone.safetensors", "subfolder": "", "type": "temp"}, "pictures": []},
        {"record": {"filename": "../../x", "subfolder": "", "type": "temp"}, "pictures": []},
        {"record": {"filename": "x", "subfolder": "", "type": "input"}, "pictures": []},
        {"record": {"filename": 3, "subfolder": None, "type": "temp"}, "pictures": [None]},
        {"record": {"filename": "x", "subfolder": "", "type": "temp"}, "pictures": "many"},
    ],
)
def test_a_run_that_is_not_there_counts_as_none(frontend, run):
    saved = workflow()
    for node in saved["nodes"]:
        if node["type"] == NODE:
            node["properties"] = {"instdiff_record": run}
    asked = []
    frontend.page.on("request", lambda request: asked.append(request.url) if "/view" in request.url else None)
    frontend.load(saved)
    editor = Editor(frontend)
    editor.node.show()
    editor.settle()  # a record that could be one is asked for
    assert editor.element.inner_text() == WAITING
    assert not any("type=input" in url or ".." in url for url in asked)
    frontend.console.clear()  # the browser itself tells of the file that is gone


@pytest.fixture
def two_edits(frontend):
    """The editor after a run of two edits."""
    frontend.load(workflow())
    edit(
        frontend,
        "const one = node('InstDiffEncodeEditPrompt'), two = LiteGraph.createNode('InstDiffEncodeEditPrompt');"
        "const both = LiteGraph.createNode('ConditioningCombine'); app.graph.add(two); app.graph.add(both);"
        "two.widgets[0].value = 'a frog'; node('InstDiffLoadMiniModel').connect(1, two, 0); one.connect(0, both, 0);"
        "two.connect(0, both, 1); both.connect(0, node('InstDiffMaskedSampler'), 'positive')",
    )
    frontend.run()
    editor = Editor(frontend)
    editor.show()
    return editor


@ANY_RENDERER
def test_all_edits_of_a_run_are_shown_or_one_by_its_button(frontend, two_edits):
    editor = two_edits
    edits = editor.element.get_by_role("toolbar", name="Edit whose mask is shown").get_by_role("button")
    assert edits.all_inner_texts() == ["All", "a red car on the grass", "a frog"]
    assert edits.nth(0).get_attribute("aria-pressed") == "true"
    assert editor.words.count() == 8
    edits.nth(2).click()
    editor.settle()
    assert editor.node.widgets()["edit"] == 2
    assert editor.words.count() == 2
    assert editor.matches(frontend.run())
    edits.nth(0).click()
    editor.settle()
    assert editor.node.widgets()["edit"] == 0
    assert editor.matches(frontend.run())


@ANY_RENDERER
def test_what_is_done_with_all_edits_is_done_by_the_next_run(frontend, two_edits):
    editor = two_edits
    editor.word("frog").click()
    editor.word("grass").click()
    editor.threshold.fill("0.6")
    editor.node.set("grow", 4)
    assert editor.matches(frontend.run())
    editor.tool("Erase")
    editor.draw((0.02, 0.5), (0.98, 0.5))
    editor.tool("Click a part")
    editor.parts.last.click()
    assert editor.matches(frontend.run())


@ANY_RENDERER
def test_a_mask_comes_back_from_the_hosts_editor_with_what_was_painted_there(frontend):
    """As the help page says."""
    frontend.load(workflow())
    edit(
        frontend,
        "const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node };"
        "const join = add('JoinImageWithAlpha'), shown = add('PreviewImage'), back = add('MaskPreview');"
        "node('InstDiffMiniScene').connect(0, join, 'image'); node('InstDiffRefineMask').connect(0, join, 'alpha');"
        "shown.title = 'Shown'; join.connect(0, shown, 'images');"
        "back.title = 'Back'; node('InstDiffRefineMask').connect(0, back, 'mask')",
    )
    result, back = frontend.node("Shown"), frontend.node("Back")
    found = frontend.run().picture(str(back.number))[..., 0] > 127
    result.pictures()
    result.select()
    page = frontend.page
    page.evaluate(OPEN)
    dialog = page.locator(".mask-editor-dialog")
    area = page.wait_for_function(GROWN, arg=[0]).json_value()
    assert area == found.sum()
    dialog.get_by_test_id("pointer-zone").wait_for()  # the mask is there before the editor takes a stroke
    box = dialog.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.1, steps=10)
    page.mouse.up()
    page.wait_for_function(GROWN, arg=[area])
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")
    photo = frontend.add("LoadImage")
    photo.set("image", "example.png")  # a photo is there as a rule, and a new server has none
    result.evaluate("comfyAPI.app.ComfyApp.copyToClipspace(node)")
    photo.evaluate("comfyAPI.app.ComfyApp.pasteFromClipspace(node)")
    photo.evaluate("node.connect(1, app.graph.getNodeById(argument), 'mask')", back.number)
    painted = frontend.run().picture(str(back.number))[..., 0] > 127
    assert painted[found].all()
    assert (painted & ~found).any()
