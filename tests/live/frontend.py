"""ComfyUI's page in a browser: what a test does in it, and what it sees of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, FloatRect, Locator, Page, ViewportSize

    from tests.live.conftest import Run, Server

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "example_workflows"
TEMPLATES = sorted(each.stem for each in EXAMPLES.glob("*.json"))
"""The templates of this pack, in the order of their numbers."""

RENDERERS = {"classic": False, "vue": True}
"""The frontend draws its nodes on a canvas, or builds them with Vue ("Nodes 2.0"): the setting for each."""

SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the template browser opens by itself
    "Comfy.Execution.PreviewMethod": "latent2rgb",
    "Comfy.Window.UnloadConfirmation": False,  # the question would keep the page from reloading
    "Comfy.Pointer.DoubleClickTime": 1000,  # a busy machine takes its time between the two clicks
    "Comfy.Minimap.Visible": False,  # it covers nodes
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.RightSidePanel.IsOpen": False,  # help pages open it, and it takes a chosen node's widgets
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
}
WINDOW: ViewportSize = {"width": 1600, "height": 1000}
EDGE = 12
"""Pixels around a node in its picture."""
PATIENCE = 60_000
"""Milliseconds that the page may take for anything but a run."""


def template(name: str) -> Path:
    """The file of a template, by its name without the number."""
    (file,) = (EXAMPLES / f"{each}.json" for each in TEMPLATES if each.partition("_")[2] == name)
    return file


READY = """() => {
    const app = window.app
    return app?.vueAppReady && app.graph?.nodes.length && app.extensionManager.workflow.activeWorkflow
        && !document.querySelector('.p-blockui-mask')
}"""
HEAR_ENDS = """() => {
    window.ended = new Set()
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, ({ detail }) => window.ended.add(detail.prompt_id))
}"""
RESIZED = """([width, height]) => {
    const { canvas } = app.canvas, shown = canvas.getBoundingClientRect()
    const fits = (pixels, length) => Math.abs(pixels - length * devicePixelRatio) < 1
    return innerWidth === width && innerHeight === height
        && fits(canvas.width, shown.width) && fits(canvas.height, shown.height)
}"""
SAMPLE_IN = """steps => {
    const all = graph => graph.nodes.flatMap(node => [node, ...(node.subgraph ? all(node.subgraph) : [])])
    for (const widget of all(app.graph).flatMap(node => node.widgets ?? []))
        if (widget.name === 'steps' && widget.value) widget.value = steps
}"""
FRAME = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

LANGUAGE_LOOKUP = re.compile(r"/docs/[^/]+/[\w-]+\.md$")
"""The frontend asks for a help page in the user's language first, and hears 404 where there is none."""


class Frontend:
    """The page, open with a server of its own. Close it with `opened`'s context."""

    def __init__(self, page: Page, server: Server, renderer: str) -> None:
        self.page = page
        self.server = server
        self.vue = RENDERERS[renderer]
        self.console: list[str] = []
        """Every error and warning in the browser's console, each with the address that it came from."""
        page.set_default_timeout(PATIENCE)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error.stack or error}"))
        server.post("/settings", SETTINGS | {"Comfy.VueNodes.Enabled": self.vue})
        page.goto(server.url)
        self._started()

    def complaints(self) -> list[str]:
        """What `console` has of this pack: from its files, or naming it."""
        return [each for each in self.console if "instdiff" in each.lower()]

    def reload(self) -> None:
        """Load the page anew, as a user does; the workflow that was open is opened again."""
        self.page.reload()
        self._started()

    def set(self, setting: str, value: Any) -> None:
        """Change one of ComfyUI's settings."""
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])

    def command(self, name: str) -> None:
        """Run one of the frontend's commands, as its menus and keys do."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def theme(self, name: str) -> None:
        """Show the page in the theme ``dark`` or ``light``."""
        self.set("Comfy.ColorPalette", name)
        dark = "document.documentElement.classList.contains('dark-theme')"
        self.page.wait_for_function(f"dark => {dark} === dark", arg=name == "dark")

    def language(self, locale: str) -> None:
        """Show the page in a language, loaded anew where it has another."""
        if self.page.evaluate("app.extensionManager.setting.get('Comfy.Locale')") != locale:
            self.set("Comfy.Locale", locale)
            self.reload()

    @contextmanager
    def window(self, width: int, height: int) -> Iterator[None]:
        """The page in a window of this size, and in its usual one at the end.

        Its canvas takes a new size some time after the window has it, and a workflow that is opened before that is
        fitted into the old one.
        """
        self._resize({"width": width, "height": height})
        try:
            yield
        finally:
            self._resize(WINDOW)

    def load(self, workflow: str | dict[str, Any]) -> None:
        """Open a template, by its name without the number, or any saved workflow."""
        name, saved = "test", workflow
        if isinstance(workflow, str):
            name, saved = workflow, json.loads(template(workflow).read_text(encoding="utf-8"))
        self.page.evaluate("([saved, name]) => app.loadGraphData(saved, true, true, name)", [saved, name])
        self.settle()

    def sample_in(self, steps: int) -> None:
        """Let every sampler of the open workflow, in its subgraphs too, take so many steps."""
        self.page.evaluate(SAMPLE_IN, steps)
        self.settle()

    @property
    def workflow(self) -> dict[str, Any]:
        """What the page would save."""
        return self.page.evaluate("app.graph.serialize()")

    def node(self, title: str) -> Node:
        """A node by its title, its type or its number; the first of several."""
        find = "title => app.graph.nodes.find(node => [node.title, node.type, String(node.id)].includes(title))?.id"
        number = self.page.evaluate(find, title)
        assert number is not None, f"no node is called {title}"
        return Node(self, number)

    def add(self, kind: str) -> Node:
        """Put a new node of a type into the workflow."""
        add = "kind => { const node = LiteGraph.createNode(kind); app.graph.add(node); return node.id }"
        return Node(self, self.page.evaluate(add, kind))

    def press_run(self) -> str:
        """Press the button Run; the id of the run. Raises `AssertionError` with the server's answer to a mistake."""
        with self.page.expect_response("**/api/prompt") as answer:
            self.page.get_by_test_id("queue-button").click()
        assert answer.value.ok, answer.value.text()
        return answer.value.json()["prompt_id"]

    def wait_for(self, prompt_id: str) -> Run:
        """Wait until a run succeeded and the page has heard so. Raises `Failed` when it did not succeed."""
        run = self.server.result(prompt_id)
        self.page.wait_for_function("id => window.ended.has(id)", arg=prompt_id)
        self.settle()
        return run

    def run(self) -> Run:
        """Press Run, and wait until the page has what the nodes show."""
        return self.wait_for(self.press_run())

    def settle(self) -> None:
        """Wait until what changed is drawn."""
        self.page.evaluate(FRAME)

    def _resize(self, window: ViewportSize) -> None:
        self.page.set_viewport_size(window)
        self.page.wait_for_function(RESIZED, arg=[window["width"], window["height"]])
        self.settle()

    def _started(self) -> None:
        self.page.wait_for_function(READY)
        self.page.evaluate(HEAR_ENDS)
        self.settle()

    def _hear(self, message: ConsoleMessage) -> None:
        address = message.location["url"]
        if message.type in ("error", "warning") and not LANGUAGE_LOOKUP.search(address):
            self.console.append(f"{message.type}: {message.text} ({address})")


class Node:
    """A node of the open workflow."""

    def __init__(self, frontend: Frontend, number: int) -> None:
        self.frontend = frontend
        self.number = number

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression about ``node`` and ``argument``."""
        page = self.frontend.page
        return page.evaluate(
            f"([id, argument]) => {{ const node = app.graph.getNodeById(id); return {expression} }}",
            [self.number, argument],
        )

    @property
    def element(self) -> Locator:
        """The node in the page: there is one in the renderer ``vue`` alone."""
        return self.frontend.page.locator(f"[data-node-id='{self.number}']")

    def widgets(self) -> dict[str, Any]:
        """The values of its widgets, by name."""
        return self.evaluate("Object.fromEntries(node.widgets.map(each => [each.name, each.value]))")

    def set(self, widget: str, value: Any) -> None:
        """Give a widget a value, as typing it does."""
        self.evaluate(
            "(widget => { widget.value = argument[1]; widget.callback?.(argument[1], app.canvas, node) })"
            "(node.widgets.find(each => each.name === argument[0]))",
            [widget, value],
        )
        self.frontend.settle()

    def pictures(self) -> list[dict[str, Any]]:
        """The pictures that the node shows, once it shows any: ``{src, width, height}`` of each."""
        self.show()  # what is out of sight is not drawn
        images = "document.querySelectorAll(`[data-node-id='${id}'] img`)"
        if not self.frontend.vue:
            images = "app.graph.getNodeById(id).imgs ?? []"
        shown = self.frontend.page.wait_for_function(
            f"id => {{ const all = [...{images}]; return all.length && all.every(each => each.naturalWidth)"
            " && all.map(each => ({ src: each.src, width: each.naturalWidth, height: each.naturalHeight })) }",
            arg=self.number,
        )
        return shown.json_value()

    def select(self) -> None:
        """Choose this node alone."""
        self.evaluate("(app.canvas.deselectAll(), app.canvas.selectNode(node))")
        self.frontend.settle()

    def show(self, scale: float = 1) -> FloatRect:
        """Bring the node into the middle of the window; where it then is."""
        self.evaluate(
            "(({ ds, canvas }, [x, y, width, height]) => { ds.scale = argument;"
            " ds.offset = [canvas.clientWidth / argument / 2 - x - width / 2,"
            " canvas.clientHeight / argument / 2 - y - height / 2]; app.canvas.setDirty(true, true) })"
            "(app.canvas, node.getBounding())",
            scale,
        )
        self.frontend.settle()
        if self.frontend.vue:
            box = self.element.bounding_box()
            assert box is not None
            return box
        return self.evaluate(
            "(([x, y, width, height], { scale, offset }, box) => ({ x: (x + offset[0]) * scale + box.x,"
            " y: (y + offset[1]) * scale + box.y, width: width * scale, height: height * scale }))"
            "(node.getBounding(), app.canvas.ds, app.canvas.canvas.getBoundingClientRect())"
        )

    def screenshot(self) -> bytes:
        """A PNG of the node alone, without links and neighbours. For the renderer ``vue``."""
        page = self.frontend.page
        self.evaluate("app.canvas.deselectAll()")
        alone = f"#graph-canvas, [data-node-id]:not([data-node-id='{self.number}']) {{ visibility: hidden !important }}"
        hidden = page.add_style_tag(content=alone)
        x, y, width, height = (self.show()[side] for side in ("x", "y", "width", "height"))
        clip: FloatRect = {"x": x - EDGE, "y": y - EDGE, "width": width + 2 * EDGE, "height": height + 2 * EDGE}
        picture = page.screenshot(clip=clip)
        hidden.evaluate("style => style.remove()")
        return picture

    def help(self) -> Locator:
        """Open the node's help page, as a user does; the page, once it has its text."""
        self.show(0.5)  # what is above a tall node is else out of the window
        self.select()
        self.frontend.page.get_by_test_id("info-button").click()
        return self.frontend.page.locator(".node-help-content .markdown-content:not(:empty)")


@contextmanager
def opened(browser: Browser, server: Server, renderer: str, scale: float = 1) -> Iterator[Frontend]:
    """The page, in a browser that has never seen it. `scale`: pixels of a picture per pixel of the page."""
    context = browser.new_context(viewport=WINDOW, device_scale_factor=scale, locale="en-US")
    try:
        yield Frontend(context.new_page(), server, renderer)
    finally:
        context.close()


def complaints_in(log: str) -> list[str]:
    """The warnings, errors and tracebacks of a server's log that name this pack, or came once the server was up."""
    start, _, after = log.partition("To see the GUI go to")
    bad = re.compile(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback|Warning:|Error:|Exception")

    def records(text: str) -> list[str]:  # each with the lines below it that are moved in
        return [each for each in re.split(r"\n(?=\S)", text) if bad.search(each)]

    return [each for each in records(start) if "instdiff" in each.lower()] + records(after)
