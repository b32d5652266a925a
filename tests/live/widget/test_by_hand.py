"""Masks corrected by hand: painted, erased, dropped and kept, with every way to point and with the keyboard alone."""

import json
import re

import numpy as np
import pytest

from tests.live.widget.editor import ANY_RENDERER, edit

ACROSS = [(0.02, 0.5), (0.98, 0.5)]
"""A stroke through the whole picture, which parts any mask in the middle of it."""


TWO_DISCS = [["erase", [2048, 2048, 8000]], ["add", [1000, 1400, 600]], ["add", [3000, 2600, 600]]]
"""Strokes that leave a mask of two parts, whatever was found."""


@pytest.fixture
def parted(editor):
    """The editor with a mask of two parts."""
    editor.node.set("corrections", json.dumps({"0": TWO_DISCS}))
    editor.settle()
    assert editor.parts.count() == 2
    return editor


@pytest.fixture
def cut_in_two(editor):
    """The editor with a line erased through what was found."""
    editor.tool("Erase")
    editor.draw(*ACROSS)
    editor.tool("Click a part")
    assert editor.parts.count() >= 2
    return editor


def middle_of(editor, number):
    """Where a part's number is in the picture, from 0 to 1."""
    label = editor.element.locator(".instdiff-labels span").nth(number).bounding_box()
    box = editor.picture.bounding_box()
    return tuple(
        (label[side] + label[length] / 2 - box[side]) / box[length]
        for side, length in (("x", "width"), ("y", "height"))
    )


def test_what_is_painted_and_erased_is_in_the_next_runs_mask(frontend, editor):
    found = editor.area()
    editor.tool("Paint")
    editor.draw((0.05, 0.05), (0.5, 0.05), (0.95, 0.3))
    painted = editor.area()
    assert painted > found + 1
    editor.tool("Erase")
    editor.draw(*ACROSS)
    assert editor.area() < painted
    assert [name for name, _ in json.loads(editor.corrections)["0"]] == ["add", "erase"]
    assert len(editor.corrections) < 300
    assert editor.matches(frontend.run())


@ANY_RENDERER
def test_corrections_are_undone_done_again_and_cleared(editor):
    states = [editor.drawing()]
    editor.tool("Paint")
    for height in (0.1, 0.3):
        editor.draw((0.1, height), (0.9, height))
    editor.page.mouse.move(1, 1)
    states.append(editor.drawing())
    assert not np.array_equal(*states)
    editor.press_button("Undo the correction (Z)")
    editor.press_button("Undo the correction (Z)")
    assert np.array_equal(editor.drawing(), states[0])
    assert editor.corrections == ""
    assert editor.element.get_by_role("button", name="Undo the correction (Z)").is_disabled()
    editor.press_button("Redo the correction (Shift+Z)")
    editor.press_button("Redo the correction (Shift+Z)")
    assert np.array_equal(editor.drawing(), states[1])
    editor.press_button("Clear all corrections of this picture")
    assert np.array_equal(editor.drawing(), states[0])
    editor.press_button("Undo the correction (Z)")
    assert np.array_equal(editor.drawing(), states[1])


def test_a_click_on_a_part_drops_it_and_another_keeps_it(frontend, parted):
    both = parted.area()
    place = parted.point(*middle_of(parted, 1))
    parted.page.mouse.click(*place)
    one = parted.area()
    assert one < both
    assert parted.parts.nth(1).get_attribute("aria-pressed") == "false"
    assert parted.parts.nth(0).is_disabled()  # the last one cannot go
    assert parted.matches(frontend.run())
    parted.page.mouse.click(*place)
    assert parted.area() == both
    assert parted.parts.nth(1).get_attribute("aria-pressed") == "true"


@ANY_RENDERER
def test_a_dropped_part_stays_dropped_at_other_thresholds_and_after_a_reload(frontend, cut_in_two):
    editor = cut_in_two
    editor.parts.last.click()
    for threshold in ("0.6", "0.4"):
        editor.threshold.fill(threshold)
        editor.settle()
        assert editor.parts.and_(editor.page.locator("[aria-pressed=false]")).count() == 1
    area, corrections = editor.area(), editor.corrections
    frontend.page.wait_for_function(
        r"() => Object.values({ ...localStorage, ...sessionStorage }).some(each => /,0\.4,.*drop/s.test(each))"
    )
    frontend.reload()
    editor.show()
    assert editor.corrections == corrections
    assert editor.area() == area
    assert editor.matches(frontend.run())


def test_all_of_it_can_be_done_with_the_keyboard(frontend, editor):
    said = editor.element.locator("[aria-live=polite]")
    found = editor.area()
    editor.picture.focus()
    editor.press("e", "]", "]", "ArrowRight", *["Shift+ArrowLeft"] * 5, " ")
    assert said.text_content() == "Brush down"
    editor.press(*["Shift+ArrowRight"] * 9, "Enter")
    assert said.text_content() == "Brush up"
    assert editor.area() < found
    assert editor.parts.count() >= 2
    editor.press("Escape", "Tab")
    while "Part " not in (editor.page.evaluate("document.activeElement.ariaLabel") or ""):
        editor.press("Tab")
    editor.press("ArrowRight", "ArrowLeft", " ")
    assert editor.parts.first.get_attribute("aria-pressed") == "false"
    assert said.text_content().endswith("dropped")
    editor.picture.focus()
    editor.press("ArrowRight", "z", "z", "z")
    assert editor.area() == found
    assert editor.corrections == ""
    editor.press("Shift+Z")
    assert editor.area() < found
    assert frontend.page.evaluate("app.graph.nodes.length") > 3


@ANY_RENDERER
def test_a_stroke_can_be_given_up(editor):
    editor.picture.focus()
    editor.press("b", " ", "Shift+ArrowRight", "Escape")
    assert editor.corrections == ""


def test_the_wheel_and_the_brackets_change_the_brush_and_not_the_canvas(frontend, editor):
    place = "[app.canvas.ds.scale, ...app.canvas.ds.offset]"
    before, first = frontend.page.evaluate(place), editor.size.input_value()
    editor.tool("Paint")
    editor.picture.hover()
    frontend.page.mouse.wheel(0, -100)
    frontend.page.wait_for_function("([size, first]) => size.value > first", arg=[editor.size.element_handle(), first])
    assert frontend.page.evaluate(place) == before
    larger = editor.size.input_value()
    editor.picture.focus()
    editor.press("[", "[")
    assert int(editor.size.input_value()) < int(larger)
    editor.press("]", "]")
    assert editor.size.input_value() == larger


@ANY_RENDERER
def test_a_pen_that_is_pressed_harder_draws_wider(frontend, editor):
    editor.tool("Paint")
    session = frontend.page.context.new_cdp_session(frontend.page)
    for height, force in ((0.1, 0.2), (0.9, 1.0)):
        for kind, across in (("mousePressed", 0.1), ("mouseMoved", 0.5), ("mouseReleased", 0.9)):
            x, y = editor.point(across, height)
            pen = {"pointerType": "pen", "force": force, "button": "left", "buttons": 1, "clickCount": 1}
            session.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pen})
    session.detach()
    editor.settle()
    light, hard = (actions[1][2] for actions in json.loads(editor.corrections)["0"])
    assert hard > 3 * light


@ANY_RENDERER
def test_a_finger_draws(frontend, editor):
    editor.tool("Paint")
    before = editor.area()
    session = frontend.page.context.new_cdp_session(frontend.page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, places in (("touchStart", [0.1]), ("touchMove", [0.5]), ("touchMove", [0.9]), ("touchEnd", [])):
        points = [dict(zip("xy", editor.point(across, 0.1), strict=True)) for across in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    session.detach()
    assert editor.area() > before + 2
    assert len(json.loads(editor.corrections)["0"]) == 1


@ANY_RENDERER
def test_strokes_stay_with_other_words_and_other_runs(frontend, editor):
    editor.tool("Paint")
    editor.draw((0.1, 0.1), (0.9, 0.1))
    corrections = editor.corrections
    editor.word("grass").click()
    assert editor.matches(frontend.run())
    edit(frontend, "node('InstDiffMaskedSampler').widgets.find(each => each.name === 'seed').value = 12345")
    assert editor.matches(frontend.run())
    assert editor.corrections == corrections


def two_pictures(frontend):
    """Let the open workflow edit its picture twice in one run."""
    edit(
        frontend,
        "const repeat = LiteGraph.createNode('RepeatLatentBatch'); app.graph.add(repeat); repeat.widgets[0].value = 2;"
        "node('VAEEncode').connect(0, repeat, 0); repeat.connect(0, node('InstDiffMaskedSampler'), 'latent_image')",
    )


@ANY_RENDERER
def test_every_picture_of_a_batch_is_corrected_by_itself(frontend, editor):
    two_pictures(frontend)
    frontend.run()
    first = editor.drawing()
    editor.turn("Next", 2)
    editor.tool("Paint")
    editor.draw((0.1, 0.1), (0.9, 0.1))
    assert list(json.loads(editor.corrections)) == ["1"]
    run = frontend.run()
    assert editor.matches(run, 1)
    editor.turn("Previous", 1)
    assert np.array_equal(editor.drawing(), first)
    assert editor.matches(run, 0)


@ANY_RENDERER
def test_a_stroke_belongs_to_the_picture_that_is_seen_and_not_to_one_on_its_way(frontend, editor, hold):
    two_pictures(frontend)
    frontend.run()
    editor.settle()
    held = hold(editor)
    editor.element.get_by_role("button", name="Next picture").click()
    editor.tool("Paint")
    frontend.page.mouse.move(*editor.point(0.1, 0.1))
    frontend.page.mouse.down()
    frontend.page.mouse.move(*editor.point(0.5, 0.1), steps=5)
    assert editor.element.get_by_text("Picture 1 of 2").is_visible()
    held.answer()
    editor.element.get_by_text("Picture 2 of 2").wait_for()
    frontend.page.mouse.move(*editor.point(0.9, 0.1), steps=5)
    frontend.page.mouse.up()
    held.release()
    editor.settle()
    assert list(json.loads(editor.corrections)) == ["0"]


@ANY_RENDERER
def test_grow_smooth_and_fill_holes_show_at_once(frontend, editor):
    editor.tool("Erase")
    editor.node.set("grow", 12)
    grown = editor.drawing()
    assert editor.matches(frontend.run())
    editor.node.set("smooth", 9)
    editor.node.set("fill_holes", True)
    assert not np.array_equal(editor.drawing(), grown)
    assert editor.matches(frontend.run())


@ANY_RENDERER
def test_when_there_is_no_room_for_more_the_editor_says_so(editor):
    dots = [["add", [each, each, 1]] for each in range(1000, 1600)]
    editor.node.set("corrections", json.dumps({"0": dots}, separators=(",", ":"))[:9990])
    while len(json.dumps({"0": dots}, separators=(",", ":"))) > 9990:
        dots.pop()
    full = json.dumps({"0": dots}, separators=(",", ":"))
    editor.node.set("corrections", full)
    editor.tool("Paint")
    editor.draw((0.1, 0.1), (0.3, 0.4), (0.9, 0.1))
    assert editor.element.get_by_role("alert").is_visible()
    assert editor.corrections == full
    editor.press_button("Clear all corrections of this picture")
    assert not editor.element.get_by_role("alert").is_visible()


@ANY_RENDERER
def test_corrections_that_cannot_be_read_count_as_none_and_can_be_cleared(editor):
    area = editor.area()
    editor.node.set("corrections", '{"0": [["add", "everything"]]}')
    assert editor.area() == area
    editor.press_button("Clear all corrections of this picture")
    assert editor.corrections == ""


def test_the_corrections_themselves_are_not_shown(frontend, editor):
    if frontend.vue:
        assert not editor.node.element.get_by_label(re.compile("^corrections$")).count()
    assert editor.node.evaluate("node.widgets.find(each => each.name === 'corrections').hidden")


@ANY_RENDERER
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_parts_and_tools_have_no_accessibility_faults(frontend, parted, theme):
    from axe_playwright_python.sync_playwright import Axe

    frontend.theme(theme)
    parted.parts.nth(1).click()
    parted.tool("Paint")
    parted.picture.focus()
    parted.press("ArrowRight")
    results = Axe().run(frontend.page, context=".instdiff-editor")
    frontend.theme("dark")
    assert not results.response["violations"], results.generate_report()


@ANY_RENDERER
def test_a_dropped_part_is_seen_but_is_not_mask(parted):
    before = parted.drawing()
    parted.parts.nth(1).click()
    assert not np.array_equal(parted.drawing(), before)
    seen, clear = parted.mask()
    x, y = middle_of(parted, 1)
    row, column = int(y * seen.shape[0]) + 12, int(x * seen.shape[1]) + 12
    assert not (seen & clear)[row - 3 : row + 3, column - 3 : column + 3].any()
