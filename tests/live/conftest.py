"""Real server processes with the pack in a fresh base folder, and what the tests ask of them."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.live.frontend import RENDERERS, Frontend, complaints_in, opened, template

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER_NAME = "inst diff-edit.v1"
PATIENCE = 600
"""Seconds that a start or a run may take, on a machine with much else to do."""

Graph = dict[str, dict[str, Any]]
"""A workflow as /prompt takes it."""

Pixels = NDArray[np.uint8]


class Failed(Exception):
    """What the user is told when a workflow does not run."""


@pytest.fixture
def failed() -> type[Failed]:
    return Failed


class Run:
    """A workflow that ran: what it made, and what the host did for it."""

    def __init__(self, server: Server, history: dict[str, Any]) -> None:
        self.server = server
        self.outputs: dict[str, Any] = history["outputs"]
        self.messages: dict[str, Any] = dict(history["status"]["messages"])

    def picture(self, node: str, number: int = 0) -> Pixels:
        """A picture of an output node, fetched over /view, ``[H, W, 3]``."""
        query = urllib.parse.urlencode(self.outputs[node]["images"][number])
        with Image.open(BytesIO(self.server.get(f"/view?{query}"))) as image:
            return np.asarray(image.convert("RGB"))

    @property
    def cached(self) -> set[str]:
        """The nodes that did not run again."""
        return set(self.messages["execution_cached"]["nodes"])


class Server:
    """A ComfyUI process on the CPU, with the packs of its base folder."""

    def __init__(self, comfy: Path, base: Path, *flags: str, python: str | Path = sys.executable) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log_file = base / "server.log"
        self._number = itertools.count(1)
        arguments = [
            "--cpu", "--port", str(port), "--base-directory", str(base), "--database-url", "sqlite:///:memory:",
            "--disable-api-nodes", *flags,
        ]  # fmt: skip
        # Several threads that wait for each other lose most of their time beside a browser or another server.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1", **_empty_gallery(comfy, base)}
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(comfy / "main.py"), *arguments],
                stdout=log, stderr=subprocess.STDOUT, cwd=base,
                env=environment,
            )  # fmt: skip

    @classmethod
    def with_link(cls, comfy: Path, base: Path, folder_name: str = FOLDER_NAME, *flags: str) -> Server:
        """With this repository, linked into the empty folder `base`, as its only pack; previews are on."""
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / folder_name).symlink_to(ROOT, target_is_directory=True)
        alone = ("--disable-all-custom-nodes", "--whitelist-custom-nodes", folder_name)
        return cls(comfy, base, *alone, "--preview-method", "latent2rgb", *flags)

    def wait_until_up(self) -> None:
        def up() -> bool:
            assert self.process.poll() is None, f"the server ended:\n{self.log}"
            try:
                return bool(self.get("/system_stats"))
            except OSError:
                return False

        self._wait(up, "it was not up")
        self.nodes: dict[str, Any] = json.loads(self.get("/object_info"))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def queue(self, graph: Graph) -> str:
        """Post a workflow; its id. Raises `Failed` with the host's answer when it does not accept all of it."""
        try:
            answer = self.post("/prompt", {"prompt": graph})
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode()) from None
        if answer["node_errors"]:
            self.result(answer["prompt_id"])  # the outputs that the mistake does not touch
            raise Failed(json.dumps(answer["node_errors"]))
        return answer["prompt_id"]

    def result(self, prompt_id: str) -> Run:
        """Wait for a workflow. Raises `Failed` with the message that its user sees when it did not succeed."""
        found: dict[str, Any] = {}

        def done() -> bool:
            found.update(json.loads(self.get(f"/history/{prompt_id}")))
            return prompt_id in found

        self._wait(done, "the workflow did not end")
        status = found[prompt_id]["status"]
        if status["status_str"] != "success":
            kind, details = status["messages"][-1]
            raise Failed(details.get("exception_message", kind))
        return Run(self, found[prompt_id])

    def run(self, graph: Graph) -> Run:
        return self.result(self.queue(graph))

    def widgets(self, kind: str) -> list[str]:
        """The names of a node's widgets, in the order in which a saved workflow has their values."""
        return [name for name, _ in _widgets(self.nodes[kind])]

    def interrupt_half_way(self, graph: Graph, steps: int) -> None:
        """Run a workflow whose sampler takes `steps`, and stop it in the middle of them."""
        before = len(self.log)
        prompt_id = self.queue(graph)
        marks = [f"{step}/{steps} [" for step in range(steps // 4, steps - 1)]
        self._wait(lambda: any(mark in self.log[before:] for mark in marks), "it did not sample")
        self.post("/interrupt", {})
        with pytest.raises(Failed, match="execution_interrupted"):
            self.result(prompt_id)

    def wait_for_step(self, steps: int) -> None:
        """Wait until a sampling of so many steps, the only one of this server, has begun."""
        self._wait(lambda: f"/{steps} [" in self.log, "it did not sample")

    def again(self) -> int:
        """A number from 2 to 64 that no workflow of this server has had, to make the host run a node again."""
        return next(self._number) + 1

    def _wait(self, done: Callable[[], bool], otherwise: str) -> None:
        begun = now = time.monotonic()
        while not done():
            assert now < begun + PATIENCE, f"{otherwise} within {PATIENCE} s:\n{self.log[-3000:]}"
            # asked often at first, and then less, so that little is waited and little of the processor taken
            time.sleep(min(0.1, 0.01 + (now - begun) / 10))
            now = time.monotonic()


def _empty_gallery(comfy: Path, base: Path) -> dict[str, str]:
    """For a host older than the installed package of template pictures, which it cannot read: an empty one."""
    pinned = re.search(r"^comfyui-workflow-templates==(\S+)", (comfy / "requirements.txt").read_text(), re.MULTILINE)
    if pinned and pinned[1] == importlib.metadata.version("comfyui-workflow-templates"):
        return {}
    package = base / "packages" / "comfyui_workflow_templates"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    return {"PYTHONPATH": str(package.parent)}


@pytest.fixture(scope="session")
def server(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server.with_link(host_path, tmp_path_factory.mktemp("comfy"))
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def page_server(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the browser alone, whose log therefore says nothing of other tests' mistakes."""
    pinned = re.search(r"^comfyui-frontend-package==(\S+)", (host_path / "requirements.txt").read_text(), re.MULTILINE)
    if pinned and pinned[1] != (installed := importlib.metadata.version("comfyui-frontend-package")):
        pytest.skip(f"this ComfyUI's frontend is {pinned[1]}, and {installed} is installed")
    server = Server.with_link(host_path, tmp_path_factory.mktemp("page"), "InstDiffEdit")
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module", params=RENDERERS)
def page(request: pytest.FixtureRequest, browser: Browser, page_server: Server) -> Iterator[Frontend]:
    """ComfyUI's page in each of its renderers; the tests of a module share it."""
    with opened(browser, page_server, request.param) as page:
        yield page


@pytest.fixture
def frontend(page: Frontend) -> Iterator[Frontend]:
    """`page`, in English, for a test that leaves nothing of ours in the browser's console and the server's log."""
    page.language("en")
    yield page
    complaints = page.complaints() + complaints_in(page.server.log)
    page.console.clear()
    assert not complaints


@pytest.fixture
def workflow(server: Server) -> Callable[..., Graph]:
    """``workflow(name)``: a template, by its name without the number, as /prompt takes it.

    It is made of the file as ComfyUI's frontend does. A path gives any other saved workflow, and `steps` one that
    samples in so many. A node's id is its title, else its type.
    """

    def load(name: str | Path, steps: int = 0) -> Graph:
        file = name if isinstance(name, Path) else template(name)
        saved = json.loads(file.read_text(encoding="utf-8"))
        ids: dict[int, str] = {}
        for node in saved["nodes"]:
            title = node.get("title", node["type"])
            ids[node["id"]] = title if title not in ids.values() else f"{title} {node['id']}"
        origins = {link[0]: [ids[link[1]], link[2]] for link in saved["links"]}
        graph = {
            ids[node["id"]]: {"class_type": node["type"], "inputs": _inputs(node, origins, server.nodes[node["type"]])}
            for node in saved["nodes"]
            if node["type"] != NOTE and not (node["type"] == SLIDER and SLIDER not in server.nodes)
        }
        for inputs in (node["inputs"] for node in graph.values()):
            if steps and inputs.get("steps"):
                inputs["steps"] = steps
        return graph

    return load


NOTE = "MarkdownNote"
"""A node of the frontend alone."""

SLIDER = "ImageCompare"
"""A node of the host that older ones do not have; a user deletes it there."""

SECOND_WIDGETS = {"control_after_generate": "control_after_generate", "image_upload": "upload"}
"""Options of an input that give it a second widget, of the frontend alone, and that widget's name."""


def _widgets(kind: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The inputs that are typed in, with their options, in the order of ``widgets_values``."""
    for group in ("required", "optional"):
        for name in kind["input_order"].get(group, []):
            type_, options = [*kind["input"][group][name], {}][:2]
            widget = isinstance(type_, list) or type_ in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            if widget and not options.get("forceInput"):
                yield name, options
                for option, second in SECOND_WIDGETS.items():
                    if options.get(option):
                        yield second, {}


def _inputs(node: dict[str, Any], origins: dict[int, list[Any]], kind: dict[str, Any]) -> dict[str, Any]:
    values = iter(node.get("widgets_values", []))
    # a saved workflow can be older than the last widgets of its nodes
    typed = {name: next(values, options.get("default")) for name, options in _widgets(kind)}
    assert not list(values), f"{node['type']} has more values than widgets"
    linked = {each["name"]: origins[each["link"]] for each in node["inputs"] if each["link"] is not None}
    views: dict[str, Any] = {
        name: {} for name, (type_, *_) in kind["input"]["required"].items() if type_ == "IMAGECOMPARE"
    }
    return {name: value for name, value in typed.items() if name not in SECOND_WIDGETS.values()} | views | linked
