"""The mask editor of Refine Instant Mask, in ComfyUI's own page and in both of its renderers."""

import base64
import io
import itertools
import json
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.live.frontend import template

NODE = "InstDiffRefineMask"
WAITING = "Queue the workflow to see the mask here."
TOLERANCE = 0.002
"""The part of the pixels in which what is shown may differ from what Python makes of it."""


class Editor:
    """The mask editor of the only Refine Instant Mask in the page."""

    def __init__(self, frontend):
        self.frontend = frontend
        self.page = frontend.page
        self.element = self.page.get_by_role("group", name="Instant mask")

    @property
    def node(self):
        return self.frontend.node(NODE)

    @property
    def inputs(self):
        values = self.node.widgets()
        return {name: values[name] for name in ("threshold", "words", "steps")}

    @property
    def threshold(self):
        return self.element.get_by_role("slider", name="Threshold")

    @property
    def step(self):
        return self.element.get_by_role("slider", name="Step")

    @property
    def picture(self):
        return self.element.get_by_role("application")

    @property
    def words(self):
        return self.element.get_by_role("toolbar").get_by_role("button")

    def word(self, text):
        return self.words.filter(has=self.page.get_by_text(text, exact=True)).first

    @property
    def origin(self):
        """What the mask is said to come from."""
        self.settle()
        return self.element.get_by_role("status").last.inner_text()

    def settle(self):
        """Wait until the mask is that of the choice, and drawn."""
        self.frontend.settle()
        self.page.wait_for_function("!document.querySelector('.instdiff-editor[data-asking]')")
        self.frontend.settle()

    def area(self):
        """The area of the mask as it is told, in per cent."""
        self.settle()
        return float(self.element.get_by_text("Area").inner_text().split()[1])

    def drawing(self, settled=True):
        """What is drawn, ``[h, w, 3]``; not settled: whatever is still to come."""
        self.settle() if settled else self.frontend.settle()
        data = self.picture.locator("canvas").evaluate("canvas => canvas.toDataURL()")
        return pixels(base64.b64decode(data.partition(",")[2]))

    def mask(self):
        """The mask as it is seen ``[h, w]``, and where it can be told from a picture that is dark itself."""
        drawn = self.drawing().astype(float).sum(-1)
        run = self.node.evaluate("node.properties.instdiff_record")
        query = urllib.parse.urlencode(run["pictures"][0])
        picture = pixels(self.frontend.server.get(f"/view?{query}"), drawn.shape[::-1]).astype(float).sum(-1)
        return drawn > picture * 0.7, (picture > 150) | (drawn > 700)

    def matches(self, run, number=0):
        """Whether what is seen is the mask that a run made of a picture."""
        seen, clear = self.mask()
        made = Image.fromarray(run.picture(str(self.node.number), number)[..., 0])
        height, width = seen.shape
        made = np.asarray(made)[sampled(height, made.height)][:, sampled(width, made.width)] > 127
        return (seen != made)[clear].mean() <= TOLERANCE and clear.mean() > 0.5

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()


def pixels(data, size=None):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray((image.resize(size, Image.Resampling.BILINEAR) if size else image).convert("RGB"))


def sampled(count, of):
    return ((np.arange(count) + 0.5) * of / count).astype(int)


def workflow(prompt="a red car on the grass", copies=1):
    """The template retune_mask with few steps, and one Refine Instant Mask that has room."""
    saved = json.loads(template("retune_mask").read_text(encoding="utf-8"))
    kept, *others = (node for node in saved["nodes"] if node["type"] == NODE)
    kept.update(title=NODE, pos=[1400, 1600], size=[420, 640], widgets_values=[0, 0, ""], properties={})
    gone = {node["id"] for node in others} | {node["id"] for node in saved["nodes"] if node["type"] == "PreviewAny"}
    saved["nodes"] = [node for node in saved["nodes"] if node["id"] not in gone]
    saved["links"] = [link for link in saved["links"] if not gone & {link[1], link[3]}]
    alive = {link[0] for link in saved["links"]}
    for node in saved["nodes"]:
        for output in node["outputs"]:
            output["links"] = [link for link in output["links"] or [] if link in alive]
        for given in node["inputs"]:
            given["link"] = given["link"] if given["link"] in alive else None
        if node["type"] == "InstDiffMaskedSampler":
            node["widgets_values"][2] = 5
        if node["type"] == "InstDiffEncodeEditPrompt":
            node["widgets_values"][0] = prompt
    return saved


def edit(frontend, script):
    """Change the open workflow; ``node(type)`` gives its nodes."""
    find = "const node = type => app.graph.nodes.find(each => each.type === type)"
    frontend.page.evaluate(f"() => {{ {find}; {script} }}")


STILL = """() => new Promise(done => {
    const size = () => `${app.canvas.ds.scale} ${document.querySelector('.instdiff-editor canvas').width}`
    let last = size(), frames = 0
    const look = () => {
        frames = size() === last ? frames + 1 : 0
        last = size()
        frames < 20 ? requestAnimationFrame(look) : done()
    }
    look()
})"""
"""Waits until the page has moved to the node: the mask is drawn anew at every zoom on the way."""

HOLD = """() => {
    const real = window.fetch
    Object.assign(window, { questions: [], held: [] })
    window.fetch = async (url, options) => {
        if (!String(url).includes('/instdiff/mask')) return real(url, options)
        questions.push(JSON.parse(options.body))
        await new Promise(done => held.push(done))
        return real(url, options)
    }
    window.letThrough = () => { window.fetch = real; held.forEach(done => done()) }
}"""


class Held:
    """Holds the editor's questions back, as a slow server does."""

    def __init__(self, editor):
        self.page = editor.page
        self.page.evaluate(HOLD)

    def questions(self, name):
        """What was asked so far: an entry of each question."""
        return [each[name] for each in self.page.evaluate("questions")]

    def answer(self):
        """Let the oldest question through, and wait until its answer, and what it leads to, is there."""
        with self.page.expect_response("**/instdiff/mask") as answer:
            self.page.evaluate("held.shift()()")
        answer.value.finished()
        self.page.wait_for_timeout(50)

    def release(self):
        self.page.evaluate("letThrough()")


NUMBERS = itertools.count(1)


@pytest.fixture
def fresh_editor(opened):
    """The editor after a run about which the page has asked nothing yet."""
    return opened(f"a red car on the grass, {next(NUMBERS)}")


@pytest.fixture
def held(fresh_editor):
    held = Held(fresh_editor)
    yield held
    held.release()


@pytest.fixture
def far_away(frontend):
    """A connection whose answers take 150 ms longer."""
    session = frontend.page.context.new_cdp_session(frontend.page)
    network = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    session.send("Network.emulateNetworkConditions", network | {"latency": 150})
    yield
    session.send("Network.emulateNetworkConditions", network | {"latency": 0})
    session.detach()


def drag(frontend, box, button):
    mouse = frontend.page.mouse
    mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    mouse.down(button=button)
    mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=4)
    mouse.up(button=button)
    frontend.settle()


@pytest.fixture
def opened(frontend):
    """``opened(prompt)``: the editor after a run."""

    def run(prompt="a red car on the grass"):
        frontend.load(workflow(prompt))
        frontend.run()
        editor = Editor(frontend)
        editor.node.show()
        editor.picture.wait_for()
        editor.page.evaluate(STILL)
        editor.settle()
        return editor

    return run


@pytest.fixture
def editor(opened):
    return opened()


def test_before_a_run_the_editor_says_how_to_get_a_mask(frontend):
    frontend.load(workflow())
    editor = Editor(frontend)
    editor.node.show()
    assert editor.element.inner_text() == WAITING


def test_what_is_seen_is_what_the_next_run_gives(frontend, editor):
    assert editor.matches(frontend.run())
    before = editor.area()
    editor.threshold.focus()
    editor.press(*["Shift+ArrowRight", "ArrowRight"] * 5, *["PageUp"] * 2)
    assert editor.inputs["threshold"] > 0.5
    assert editor.area() < before
    assert editor.matches(frontend.run())
    editor.word("grass").click()
    editor.step.fill("2")
    assert editor.inputs["words"] == "grass"
    assert editor.inputs["steps"] == 2
    assert editor.matches(frontend.run())


def test_what_is_seen_is_what_the_next_run_gives_far_from_the_server_too(frontend, editor, far_away):
    editor.threshold.fill("0.4")
    editor.word("grass").click()
    editor.word("car").click()
    editor.step.focus()
    editor.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight")
    assert editor.inputs == {"threshold": 0.4, "words": "grass, car", "steps": 3}
    assert editor.matches(frontend.run())


def test_until_the_next_mask_is_there_the_last_one_stays_and_the_threshold_moves(fresh_editor, held):
    before = fresh_editor.drawing()
    fresh_editor.word("grass").click()
    assert (fresh_editor.drawing(settled=False) == before).all()
    assert fresh_editor.word("grass").get_attribute("aria-pressed") == "true"
    fresh_editor.threshold.fill("0.9")
    moved = fresh_editor.drawing(settled=False)
    assert (moved != before).any()
    held.answer()
    assert (fresh_editor.drawing() != moved).any()
    assert held.questions("words") == [["grass"]]


def test_of_many_clicks_the_last_one_counts_and_those_between_are_not_asked_for(frontend, fresh_editor, held):
    before = fresh_editor.drawing()
    for word in ("grass", "car", "red", "grass"):
        fresh_editor.word(word).click()
        frontend.settle()
    assert held.questions("words") == [["grass"]]
    held.answer()
    assert (fresh_editor.drawing(settled=False) == before).all()
    assert held.questions("words") == [["grass"], ["car", "red"]]
    held.answer()
    assert fresh_editor.inputs["words"] == "car, red"
    assert (fresh_editor.drawing() != before).any()
    held.release()
    assert fresh_editor.matches(frontend.run())


def test_scrubbing_shows_steps_on_the_way_and_ends_at_the_last(frontend, fresh_editor, held):
    before = fresh_editor.drawing()
    for step in "123":
        fresh_editor.step.fill(step)
        frontend.settle()
    held.answer()
    on_the_way = fresh_editor.drawing(settled=False)
    assert (on_the_way != before).any()
    held.answer()
    assert held.questions("steps") == [1, 3]
    assert (fresh_editor.drawing() != on_the_way).any()
    held.release()
    assert fresh_editor.matches(frontend.run())


def test_an_answer_about_the_run_before_is_dropped(frontend, fresh_editor, held):
    fresh_editor.word("grass").click()
    frontend.settle()
    edit(frontend, "node('InstDiffMaskedSampler').widgets.find(each => each.name === 'steps').value = 4")
    run = frontend.run()
    held.answer()
    held.release()
    assert fresh_editor.matches(run)
    assert fresh_editor.step.get_attribute("aria-valuetext") == "4 of 4"


def test_the_editor_works_while_the_server_samples(frontend, fresh_editor):
    editor, before, area = fresh_editor, fresh_editor.drawing(), fresh_editor.area()
    steps = "node('InstDiffMaskedSampler').widgets.find(each => each.name === 'steps').value"
    edit(frontend, f"{steps} = 300")
    run = frontend.press_run()
    frontend.server.wait_for_step(300)
    editor.word("grass").click()
    grass = editor.drawing()
    assert not np.array_equal(grass, before)
    editor.step.fill("1")
    assert not np.array_equal(editor.drawing(), grass)
    editor.word("grass").click()
    editor.step.fill("5")
    assert editor.area() == area
    assert run in json.dumps(json.loads(frontend.server.get("/queue"))["queue_running"])
    frontend.server.post("/interrupt", {})
    frontend.page.wait_for_function("id => window.ended.has(id)", arg=run)
    frontend.console.clear()


def test_when_the_record_is_gone_the_editor_says_how_to_get_a_mask(frontend, editor):
    name = editor.node.evaluate("node.properties.instdiff_record.record.filename")
    (frontend.server.log_file.parent / "temp" / name).unlink()
    editor.word("car").click()
    editor.settle()
    assert editor.element.inner_text() == WAITING
    frontend.console.clear()  # the browser itself tells of the answer 404
    frontend.run()
    editor.settle()
    assert editor.word("car").get_attribute("aria-pressed") == "true"


def test_a_click_names_a_word_and_another_no_longer_does(editor):
    assert editor.origin == "Found by itself"
    found = editor.area()
    editor.word("grass").click()
    assert editor.inputs["words"] == "grass"
    assert editor.word("grass").get_attribute("aria-pressed") == "true"
    assert editor.area() > found
    editor.word("car").click()
    assert editor.inputs["words"] == "grass, car"
    editor.word("grass").click()
    editor.word("car").click()
    assert editor.inputs["words"] == ""
    assert editor.area() == found


def test_every_word_says_its_weight_as_a_number_and_one_that_it_is_the_index_word(editor):
    shown = editor.words.all_inner_texts()
    said = editor.words.evaluate_all("all => all.map(each => each.ariaLabel)")
    assert said == editor.words.evaluate_all("all => all.map(each => each.title)")
    assert sum("index word" in each for each in said) == sum("★" in each for each in shown) == 1
    for sign, number, meaning in (("+", ": +1", "goes with"), ("−", ": −1", "goes against")):
        having = [sign in each for each in shown]
        assert having == [number in each for each in said] == [meaning in each for each in said]


def test_the_signs_of_the_words_are_explained_beside_them(editor):
    explained = editor.element.locator(".instdiff-legend").inner_text()
    assert all(sign in explained for sign in ("★ index word", "+ goes with", "− against"))


def test_what_acts_is_told_in_numbers_too(frontend, editor):
    editor.picture.hover()
    frontend.settle()
    told = editor.element.locator(".instdiff-acting").all_inner_texts()
    assert told
    assert all(re.search(r"\d+ %$", each.strip()) for each in told)


def test_the_threshold_that_is_the_settings_says_so_above_and_below(editor):
    shown = editor.element.locator(".instdiff-value").first
    label = "node.widgets.find(each => each.name === 'threshold').label"
    assert shown.inner_text() == editor.threshold.get_attribute("aria-valuetext") == "0.50 (settings)"
    assert editor.node.evaluate(label) == "threshold (0: settings)"
    editor.threshold.fill("0.8")
    editor.frontend.settle()
    assert shown.inner_text() == "0.80"


def test_scrubbing_shows_the_steps_and_the_last_one_stands_for_all(editor):
    last = editor.drawing()
    editor.step.focus()
    editor.press("Home")
    assert editor.inputs["steps"] == 1
    assert editor.step.get_attribute("aria-valuetext") == "1 of 5"
    assert (editor.drawing() != last).any()
    editor.press("End")
    assert editor.inputs["steps"] == 0
    assert (editor.drawing() == last).all()


def test_the_threshold_can_be_given_back_to_the_settings(editor):
    editor.threshold.fill("0.8")
    assert editor.inputs["threshold"] == 0.8
    editor.element.get_by_role("button", name="Use the settings' threshold").click()
    assert editor.inputs["threshold"] == 0
    assert editor.threshold.input_value() == "0.5"


def test_typing_in_the_inputs_moves_the_editor(editor):
    editor.node.set("threshold", 0.7)
    editor.node.set("words", "Grass, tree")
    editor.node.set("steps", 2)
    editor.settle()
    assert editor.threshold.input_value() == "0.7"
    assert editor.step.input_value() == "2"
    assert editor.word("grass").get_attribute("aria-pressed") == "true"
    assert editor.origin == "“tree” is not in the edit prompt"


def test_a_move_is_one_step_for_undo(frontend, editor):
    editor.threshold.focus()
    editor.press("ArrowRight", "ArrowRight")
    assert editor.inputs["threshold"] == 0.52
    editor.press("Control+z")
    frontend.page.wait_for_function("app.graph.nodes.some(node => node.widgets?.some(each => each.value === 0.51))")
    editor.picture.wait_for()
    assert editor.inputs["threshold"] == 0.51
    assert editor.threshold.input_value() == "0.51"
    editor.word("car").click()
    assert editor.inputs["words"] == "car"


def test_pointing_at_the_picture_shows_the_words_that_act_there(frontend, editor):
    editor.picture.hover()
    frontend.settle()
    acting = editor.element.locator("[data-acting]").all_inner_texts()
    assert 1 <= len(acting) <= 5
    frontend.page.mouse.move(1, 1)
    frontend.settle()
    assert not editor.element.locator("[data-acting]").count()


def test_arrow_keys_point_at_the_picture_and_the_words_are_read_out(editor):
    said = editor.element.locator("[aria-live=polite]")
    editor.picture.focus()
    editor.press("ArrowRight")
    centre = said.text_content()
    assert "%" in centre
    editor.press(*["Shift+ArrowUp"] * 6)
    assert said.text_content() != centre


def test_keys_pressed_in_the_editor_do_not_reach_the_graph(frontend, editor):
    count = len(frontend.workflow["nodes"])
    for place in (editor.threshold, editor.words.first, editor.picture):
        place.focus()
        editor.node.select()
        editor.press("Delete", "Backspace", "m", "r")
    assert len(frontend.workflow["nodes"]) == count
    assert editor.node.evaluate("node.mode") == 0


def test_a_drag_in_the_editor_moves_neither_node_nor_canvas_but_one_with_the_middle_button_does(frontend, editor):
    def place():
        return frontend.page.evaluate("[...app.canvas.ds.offset]"), editor.node.evaluate("[...node.pos]")

    before = place()
    for element in (editor.threshold, editor.picture):
        box = element.bounding_box()
        drag(frontend, box, "left")
    assert place() == before
    assert editor.inputs["threshold"] > 0
    drag(frontend, editor.picture.bounding_box(), "middle")
    assert place()[0] != before[0]


def test_the_wheel_scrolls_a_long_list_of_words_that_has_the_focus_and_else_moves_the_canvas(frontend, opened):
    editor = opened("the " * 70)
    toolbar = editor.element.get_by_role("toolbar")
    place = "[app.canvas.ds.scale, ...app.canvas.ds.offset]"
    before = frontend.page.evaluate(place)
    editor.words.first.click()
    toolbar.hover()
    frontend.page.mouse.wheel(0, 40)
    frontend.page.wait_for_function("list => list.scrollTop > 0", arg=toolbar.element_handle())
    assert frontend.page.evaluate(place) == before
    editor.picture.hover()
    frontend.page.mouse.wheel(0, 40)
    frontend.page.wait_for_function(f"before => String({place}) !== String(before)", arg=before)


def test_every_picture_of_a_batch_has_its_mask(frontend, editor):
    edit(
        frontend,
        "const repeat = LiteGraph.createNode('RepeatLatentBatch'); app.graph.add(repeat); repeat.widgets[0].value = 2;"
        "node('VAEEncode').connect(0, repeat, 0); repeat.connect(0, node('InstDiffMaskedSampler'), 'latent_image')",
    )
    run = frontend.run()
    assert editor.matches(run)
    assert editor.element.get_by_text("Picture 1 of 2").is_visible()
    assert editor.element.get_by_role("button", name="Previous picture").is_disabled()
    editor.element.get_by_role("button", name="Next picture").click()
    assert editor.element.get_by_text("Picture 2 of 2").is_visible()
    assert editor.matches(run, 1)
    assert not editor.matches(run, 0)


def test_without_a_picture_the_mask_is_grey(frontend, editor):
    edit(frontend, "const mask = node('InstDiffRefineMask'); mask.disconnectInput(mask.findInputSlot('image'))")
    frontend.run()
    drawn = editor.drawing()
    assert (drawn == drawn[..., :1]).all()
    assert len(np.unique(drawn)) > 20


def test_what_another_node_sets_cannot_be_moved_here(frontend, editor):
    edit(
        frontend,
        "const other = LiteGraph.createNode('PrimitiveFloat'); app.graph.add(other);"
        "other.connect(0, node('InstDiffRefineMask'), 'threshold')",
    )
    frontend.settle()
    assert editor.threshold.is_disabled()
    assert editor.step.is_enabled()


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
    editor.node.show()
    editor.picture.wait_for()
    assert editor.inputs == inputs
    assert editor.area() == area


def test_the_saved_workflow_has_the_values_of_the_nodes_own_inputs(frontend, editor):
    editor.threshold.fill("0.6")
    (node,) = (node for node in frontend.workflow["nodes"] if node["type"] == NODE)
    assert node["widgets_values"] == [0, 0.6, ""]
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


def test_the_mask_is_not_shown_again_below_the_editor(frontend, editor):
    assert not editor.node.evaluate("node.imgs?.length")
    if frontend.vue:
        assert not editor.node.element.locator("img").count()


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
    assert editor.element.inner_text() == WAITING
    assert not any("type=input" in url or ".." in url for url in asked)
    frontend.console.clear()  # the browser itself tells of the file that is gone


def test_markup_in_the_prompt_does_nothing(frontend, opened):
    editor = opened("<img src=x onerror=alert(1)> a <b>red</b> car")
    assert not editor.element.locator("img, b").count()
    assert "car" in editor.element.locator(".instdiff-word").all_inner_texts()


def test_a_hundred_words_leave_the_picture_its_room(frontend, opened):
    editor = opened(" ".join(f"word{number}" for number in range(99)) + " " + "long" * 30)
    assert editor.words.count() >= 75
    toolbar = editor.element.get_by_role("toolbar")
    assert toolbar.bounding_box()["height"] < 100
    assert editor.picture.bounding_box()["height"] > 120
    editor.words.first.focus()
    editor.press("End")
    toolbar_box, last = toolbar.bounding_box(), editor.words.last.bounding_box()
    assert toolbar_box["y"] <= last["y"] <= toolbar_box["y"] + toolbar_box["height"]
    assert last["width"] <= toolbar_box["width"]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_editor_has_no_accessibility_faults(frontend, editor, theme):
    from axe_playwright_python.sync_playwright import Axe

    frontend.theme(theme)
    editor.word("car").click()
    editor.picture.focus()
    editor.press("ArrowRight")
    found = Axe().run(frontend.page, context=".instdiff-editor")
    frontend.theme("dark")
    assert not found.response["violations"], found.generate_report()


def test_the_editor_speaks_the_language_of_the_page(frontend):
    frontend.language("zh")
    frontend.load(workflow())
    frontend.node(NODE).show()
    assert frontend.page.get_by_text("运行工作流后，遮罩会显示在这里。").is_visible()
    frontend.language("en")
