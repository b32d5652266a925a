"""The animated picture of the mask editor that the README shows: threshold, word, brush, part, result.

It is no test that pytest finds by itself. This takes the picture, and stores it:
``python -m pytest tests/live/widget/animation.py``
"""

import io

import pytest
from PIL import Image

from tests.live.frontend import ROOT, opened
from tests.live.widget.editor import Editor

FOLDER = ROOT / "web" / "docs" / "images"
NAME = "mask_editor.webp"
LARGEST = 1_500_000
"""Bytes."""
MOMENT, PAUSE = 250, 1400
"""Milliseconds that a picture is shown on the way, and at the end of a gesture."""


@pytest.fixture(scope="module")
def page(browser, page_server):
    with opened(browser, page_server, "vue") as page:
        yield page


def rgb(data):
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def test_the_editor_has_its_animated_picture(frontend):
    frontend.load("correct_by_hand")
    frontend.node("InstDiffRefineMask").evaluate("node.setSize([460, 890])")
    frontend.node("InstDiffRefineMask").set("corrections", "")
    frontend.run()
    editor = Editor(frontend)
    editor.node.show()
    editor.picture.wait_for()
    pictures, durations = [], []

    def take(duration=MOMENT):
        editor.settle()
        pictures.append(rgb(editor.node.screenshot()))
        durations.append(duration)

    take(PAUSE)
    for threshold in ("0.4", "0.25", "0.1", "0.25", "0.4", "0.55", "0.7", "0.85"):
        editor.threshold.fill(threshold)
        take()
    editor.press_button("Use the settings' threshold")
    take(PAUSE)
    editor.word("a").click()
    take(PAUSE)
    editor.press_button("Find it by itself")
    take()
    editor.tool("Paint")
    editor.draw((0.1, 0.1), (0.3, 0.1))
    take(PAUSE)
    editor.tool("Click a part")
    editor.parts.first.click()
    take(PAUSE)
    editor.tool("Paint")
    editor.size.fill("40")
    for place in ((0.21, 0.68), (0.79, 0.75)):
        editor.draw(place, place)
        take(PAUSE)
    run = frontend.run()
    result = Image.fromarray(run.picture(str(frontend.node("SaveImage").number)))
    last = pictures[-1].copy()
    side = min(last.size) - 24
    last.paste(last.getpixel((2, 2)), (0, 0, *last.size))
    last.paste(result.resize((side, side)), ((last.width - side) // 2, (last.height - side) // 2))
    pictures.append(last)
    durations.append(2 * PAUSE)
    size = pictures[0].size
    first, *others = (picture.crop((0, 0, *size)) for picture in pictures)
    file = FOLDER / NAME
    first.save(file, save_all=True, append_images=others, duration=durations, loop=0, quality=70, method=4)
    assert file.stat().st_size < LARGEST
