"""What is done in the editor with mouse, wheel and keys, and what it moves."""

import numpy as np

from tests.live.widget.editor import ANY_RENDERER, drag


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


@ANY_RENDERER
def test_scrubbing_shows_the_steps_and_the_last_one_stands_for_all(editor):
    last = editor.drawing()
    editor.step.focus()
    editor.press("Home")
    assert editor.inputs["steps"] == 1
    assert editor.step.get_attribute("aria-valuetext") == "1 of 5"
    assert not np.array_equal(editor.drawing(), last)
    editor.press("End")
    assert editor.inputs["steps"] == 0
    assert np.array_equal(editor.drawing(), last)


def test_the_threshold_can_be_given_back_to_the_settings(editor):
    editor.threshold.fill("0.8")
    assert editor.inputs["threshold"] == 0.8
    editor.element.get_by_role("button", name="Use the settings' threshold").click()
    assert editor.inputs["threshold"] == 0
    assert editor.threshold.input_value() == "0.5"


@ANY_RENDERER
def test_a_phrase_shows_all_its_words_and_a_click_on_one_takes_it_back(editor):
    editor.node.set("words", "Red Car，(grass:1.2)")
    editor.settle()
    pressed = editor.words.evaluate_all("all => all.filter(each => each.ariaPressed === 'true').map(e => e.innerText)")
    assert [text.strip("★+−\n") for text in pressed] == ["red", "car", "grass"]
    editor.word("car").click()
    assert editor.inputs["words"] == "(grass:1.2)"


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


@ANY_RENDERER
def test_pointing_at_the_picture_shows_the_words_that_act_there(frontend, editor):
    editor.picture.hover()
    frontend.settle()
    acting = editor.element.locator("[data-acting]").all_inner_texts()
    assert 1 <= len(acting) <= 5
    frontend.page.mouse.move(1, 1)
    frontend.settle()
    assert not editor.element.locator("[data-acting]").count()


@ANY_RENDERER
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
    toolbar = editor.element.get_by_role("toolbar", name="Words")
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
