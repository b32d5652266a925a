"""The mask that the editor shows: the one that the next run gives, at any time and distance."""

import json

import numpy as np

from tests.live.widget.editor import ANY_RENDERER, WAITING, edit


@ANY_RENDERER
def test_what_is_seen_is_what_the_next_run_gives_far_from_the_server_too(frontend, editor, far_away):
    editor.threshold.fill("0.4")
    editor.word("grass").click()
    editor.word("car").click()
    editor.step.focus()
    editor.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight")
    assert editor.inputs == {"threshold": 0.4, "words": "grass, car", "steps": 3}
    assert editor.matches(frontend.run())


@ANY_RENDERER
def test_until_the_next_mask_is_there_the_last_one_stays_and_the_threshold_moves(fresh_editor, held):
    before = fresh_editor.drawing()
    fresh_editor.word("grass").click()
    assert np.array_equal(fresh_editor.drawing(settled=False), before)
    assert fresh_editor.word("grass").get_attribute("aria-pressed") == "true"
    fresh_editor.threshold.fill("0.9")
    moved = fresh_editor.drawing(settled=False)
    assert not np.array_equal(moved, before)
    held.answer()
    assert not np.array_equal(fresh_editor.drawing(), moved)
    assert held.questions("words") == [["grass"]]


@ANY_RENDERER
def test_of_many_clicks_the_last_one_counts_and_those_between_are_not_asked_for(frontend, fresh_editor, held):
    before = fresh_editor.drawing()
    for word in ("grass", "car", "red", "grass"):
        fresh_editor.word(word).click()
        frontend.settle()
    assert held.questions("words") == [["grass"]]
    held.answer()
    assert np.array_equal(fresh_editor.drawing(settled=False), before)
    assert held.questions("words") == [["grass"], ["car", "red"]]
    held.answer()
    assert fresh_editor.inputs["words"] == "car, red"
    assert not np.array_equal(fresh_editor.drawing(), before)
    held.release()
    assert fresh_editor.matches(frontend.run())


@ANY_RENDERER
def test_scrubbing_shows_steps_on_the_way_and_ends_at_the_last(frontend, fresh_editor, held):
    before = fresh_editor.drawing()
    for step in "123":
        fresh_editor.step.fill(step)
        frontend.settle()
    held.answer()
    on_the_way = fresh_editor.drawing(settled=False)
    assert not np.array_equal(on_the_way, before)
    held.answer()
    assert held.questions("steps") == [1, 3]
    assert not np.array_equal(fresh_editor.drawing(), on_the_way)
    held.release()
    assert fresh_editor.matches(frontend.run())


@ANY_RENDERER
def test_an_answer_about_the_run_before_is_dropped(frontend, fresh_editor, held):
    fresh_editor.word("grass").click()
    frontend.settle()
    edit(frontend, "node('InstDiffMaskedSampler').widgets.find(each => each.name === 'steps').value = 4")
    run = frontend.run()
    held.answer()
    held.release()
    assert fresh_editor.matches(run)
    assert fresh_editor.step.get_attribute("aria-valuetext") == "4 of 4"


@ANY_RENDERER
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


@ANY_RENDERER
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


@ANY_RENDERER
def test_every_picture_of_a_batch_has_its_mask(frontend, editor):
    edit(
        frontend,
        "const [flip, batch] = ['LatentFlip', 'LatentBatch'].map(LiteGraph.createNode.bind(LiteGraph));"
        "app.graph.add(flip); app.graph.add(batch); node('VAEEncode').connect(0, flip, 0);"
        "node('VAEEncode').connect(0, batch, 0); flip.connect(0, batch, 1);"
        "batch.connect(0, node('InstDiffMaskedSampler'), 'latent_image')",
    )
    run = frontend.run()
    assert editor.matches(run)
    assert editor.element.get_by_text("Picture 1 of 2").is_visible()
    assert editor.element.get_by_role("button", name="Previous picture").is_disabled()
    editor.turn("Next", 2)
    assert editor.matches(run, 1)
    assert not editor.matches(run, 0)


@ANY_RENDERER
def test_without_a_picture_the_mask_is_grey(frontend, editor):
    edit(frontend, "const mask = node('InstDiffRefineMask'); mask.disconnectInput(mask.findInputSlot('image'))")
    frontend.run()
    drawn = editor.drawing()
    assert (drawn == drawn[..., :1]).all()
    assert len(np.unique(drawn)) > 20
