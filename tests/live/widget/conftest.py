"""The mask editor in a page of ComfyUI, near and far from its server."""

import itertools

import pytest

from tests.live.widget.editor import Editor, workflow

HOLD = """() => {
    const real = window.fetch
    Object.assign(window, { questions: [], held: [], answered: 0 })
    const frame = () => new Promise(requestAnimationFrame)
    window.fetch = async (url, options) => {
        if (!String(url).includes('/instdiff/mask')) return real(url, options)
        questions.push(JSON.parse(options.body))
        await new Promise(done => held.push(done))
        const response = await real(url, options)
        const whole = new Response(await response.arrayBuffer(), response)  // nothing is left to wait for
        frame().then(frame).then(() => answered++)
        return whole
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
        before = self.page.evaluate("(held.shift()(), answered)")
        self.page.wait_for_function("before => answered > before", arg=before)

    def release(self):
        self.page.evaluate("letThrough()")


STEPS = itertools.count(1000)
"""More than a run has: all of its steps are meant, and the node has to run again."""


@pytest.fixture
def opened(frontend):
    """``opened(prompt, steps)``: the editor after a run."""

    def run(prompt="a red car on the grass", steps=0):
        frontend.load(workflow(prompt, steps))
        frontend.run()
        editor = Editor(frontend)
        editor.show()
        return editor

    return run


@pytest.fixture
def editor(opened):
    return opened()


@pytest.fixture
def fresh_editor(opened):
    """The editor after a run about which the page has asked nothing yet."""
    return opened(steps=next(STEPS))


@pytest.fixture
def hold():
    """``hold(editor)`` holds its questions back from now on, until the test ends."""
    begun = []

    def begin(editor):
        begun.append(Held(editor))
        return begun[-1]

    yield begin
    for held in begun:
        held.release()


@pytest.fixture
def held(fresh_editor, hold):
    return hold(fresh_editor)


@pytest.fixture
def far_away(frontend):
    """A connection whose answers take 150 ms longer."""
    session = frontend.page.context.new_cdp_session(frontend.page)
    network = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    session.send("Network.emulateNetworkConditions", network | {"latency": 150})
    yield
    session.send("Network.emulateNetworkConditions", network | {"latency": 0})
    session.detach()
