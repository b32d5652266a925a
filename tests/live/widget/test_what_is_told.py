"""What the editor tells, and to whom: in words, in room for the picture, to screen readers, in another language."""

import re

import pytest

from tests.live.widget.editor import ANY_RENDERER, NODE, workflow


@ANY_RENDERER
def test_every_word_says_its_weight_as_a_number_and_one_that_it_is_the_index_word(editor):
    shown = editor.words.all_inner_texts()
    said = editor.words.evaluate_all("all => all.map(each => each.ariaLabel)")
    assert said == editor.words.evaluate_all("all => all.map(each => each.title)")
    assert sum("index word" in each for each in said) == sum("★" in each for each in shown) == 1
    for sign, number, meaning in (("+", ": +1", "goes with"), ("−", ": −1", "goes against")):
        having = [sign in each for each in shown]
        assert having == [number in each for each in said] == [meaning in each for each in said]


@ANY_RENDERER
def test_the_signs_of_the_words_are_explained_beside_them(editor):
    explained = editor.element.locator(".instdiff-legend").inner_text()
    assert all(sign in explained for sign in ("★ index word", "+ goes with", "− against"))


@ANY_RENDERER
def test_what_acts_is_told_in_numbers_too(frontend, editor):
    editor.picture.hover()
    frontend.settle()
    told = editor.element.locator(".instdiff-acting").all_inner_texts()
    assert told
    assert all(re.search(r"\d+ %$", each.strip()) for each in told)


@ANY_RENDERER
def test_markup_in_the_prompt_does_nothing(frontend, opened):
    editor = opened("<img src=x onerror=alert(1)> a <b>red</b> car")
    assert not editor.element.locator("img, b").count()
    assert "car" in editor.element.locator(".instdiff-word").all_inner_texts()


@ANY_RENDERER
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


@ANY_RENDERER
def test_the_editor_speaks_the_language_of_the_page(frontend):
    frontend.language("zh")
    frontend.load(workflow())
    frontend.node(NODE).show()
    frontend.page.get_by_text("运行工作流后，遮罩会显示在这里。").wait_for()
    frontend.run()
    frontend.page.get_by_role("button", name="涂抹属于遮罩的区域（B）").wait_for()
    assert frontend.page.get_by_role("group", name="手动修正").is_visible()
