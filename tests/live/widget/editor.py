"""The mask editor of Refine Instant Mask in ComfyUI's own page: what a test does in it, and what it sees of it."""

import base64
import io
import json
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.live.frontend import template

ANY_RENDERER = pytest.mark.parametrize("page", ["vue"], indirect=True)
"""For a test of what the element does by itself, which is the same in either renderer."""
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
        return self.element.get_by_role("toolbar", name="Words").get_by_role("button")

    def word(self, text):
        return self.words.filter(has=self.page.get_by_text(text, exact=True)).first

    @property
    def corrections(self):
        return self.node.widgets()["corrections"]

    @property
    def parts(self):
        """The buttons of the mask's parts."""
        return self.element.get_by_role("toolbar", name="Parts of the mask").get_by_role("button")

    @property
    def size(self):
        return self.element.get_by_role("slider", name="Size of the brush")

    def press_button(self, name):
        self.element.get_by_role("button", name=name, exact=True).click()
        self.settle()

    def tool(self, title):
        """Choose a tool by the beginning of what it says."""
        self.element.get_by_role("button", name=re.compile(f"^{title}")).click()

    def point(self, x, y):
        """The place in the page of one in the picture, both from 0 to 1."""
        box = self.picture.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def draw(self, *places):
        """Drag the mouse over places in the picture, from 0 to 1."""
        mouse = self.page.mouse
        mouse.move(*self.point(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.point(*place), steps=5)
        mouse.up()
        self.settle()

    @property
    def origin(self):
        """What the mask is said to come from."""
        self.settle()
        return self.element.get_by_role("status").last.inner_text()

    def show(self):
        """Bring the node into sight, and wait until it has a mask and stands still."""
        self.node.show()
        self.picture.wait_for()
        self.page.evaluate(STILL)
        self.settle()

    def turn(self, way, number):
        """Press the button ``Next`` or ``Previous``, and wait for the picture of that number, from 1 on."""
        self.element.get_by_role("button", name=f"{way} picture").click()
        self.element.get_by_text(f"Picture {number} of").wait_for()
        self.settle()

    def settle(self):
        """Wait until the mask is that of the latest run and of the choice, and drawn."""
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


def workflow(prompt="a red car on the grass", steps=0):
    """The template retune_mask with few steps, and one Refine Instant Mask, of so many of them, that has room."""
    saved = json.loads(template("retune_mask").read_text(encoding="utf-8"))
    kept, *others = (node for node in saved["nodes"] if node["type"] == NODE)
    kept.update(title=NODE, pos=[1400, 1600], size=[420, 820], widgets_values=[steps, 0, ""], properties={})
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


def drag(frontend, box, button):
    mouse = frontend.page.mouse
    mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    mouse.down(button=button)
    mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=4)
    mouse.up(button=button)
    frontend.settle()


STILL = """() => new Promise(done => {
    const size = () => `${app.canvas.ds.scale} ${document.querySelector('.instdiff-editor canvas').width}`
    let last = size(), frames = 0
    const look = () => {
        frames = size() === last ? frames + 1 : 0
        last = size()
        frames < 10 ? requestAnimationFrame(look) : done()
    }
    look()
})"""
"""Waits until the page has moved to the node: the mask is drawn anew at every zoom on the way."""
