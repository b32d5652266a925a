"""Whatever happens to a run in a live server, the next one is as in a server that has just started."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Graph = dict[str, dict[str, Any]]
Event = dict[str, Any]
Pixels = NDArray[np.uint8]

STEPS, SIDE, SMALL = 12, 256, 128
"""Of the edits that are stopped; and the side of those that only have to be the same again."""

SEEDS = itertools.count(1000)
"""Of edits that this server has not made yet, and so does not take from its cache."""

FLAT = 40_000_000
"""Bytes by which ten runs may make the process larger: less than one copy of the model's weights (51 MB), and
a tenth of what ten runs' layers of attention take."""


def load(name: str) -> ModuleType:
    """A module beside this one: tests are no packages, and their folder is not on the path."""
    spec = importlib.util.spec_from_file_location(f"live_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load("fuzz")


def edit(seed: int, steps: int = STEPS, side: int = SIDE, **scene: Any) -> Graph:
    """Masked Sampler, Refine Instant Mask ("out") and the decoded picture ("shown")."""
    graph = fuzz.valid_graphs()["sampler"]
    graph["run"]["inputs"] |= {"seed": seed, "steps": steps}
    graph["scene"]["inputs"] |= scene
    graph["picture"]["inputs"] |= {"width": side, "height": side}
    return with_picture(graph)


def with_picture(graph: Graph) -> Graph:
    graph["decode"] = fuzz.node("VAEDecode", samples=["run", 0], vae=["model", 2])
    graph["shown"] = fuzz.node("PreviewImage", images=["decode", 0])
    return graph


def plain(server: Any) -> Pixels:
    """What KSampler makes, run again and not from the host's cache."""
    graph = fuzz.valid_graphs()["capture"]
    inputs = dict(graph["run"]["inputs"])
    del graph["out"], graph["settings"]
    graph["again"] = fuzz.node("LatentFromBatch", samples=["latent", 0], batch_index=0, length=server.again())
    graph["run"] = fuzz.node("KSampler", **inputs | {"latent_image": ["again", 0], "steps": 3})
    run = server.run(with_picture(graph))
    assert "run" not in run.cached
    return run.picture("shown")


@pytest.fixture(scope="module")
def fresh(server: Any) -> tuple[Pixels, Pixels]:
    """KSampler's picture and the edit's before anything went wrong."""
    return plain(server), server.run(edit(7, steps=2, side=SMALL)).picture("shown")


@pytest.fixture
def unharmed(server: Any, fresh: tuple[Pixels, Pixels]) -> Callable[[], None]:
    """``unharmed()``: both come out bit for bit as in the beginning."""

    def check() -> None:
        assert np.array_equal(plain(server), fresh[0])
        again = server.run(edit(7, steps=2, side=SMALL))
        assert "run" not in again.cached
        assert np.array_equal(again.picture("shown"), fresh[1])

    return check


async def follow(server: Any, graph: Graph, stop_at: Callable[[Event], bool] | None = None) -> list[Event]:
    """Queue a workflow as a browser does; what it is told until the workflow has ended. Interrupts it at an event."""
    import aiohttp

    client, events = uuid.uuid4().hex, []
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId={client}") as socket:
        async with session.post(f"{server.url}/prompt", json={"prompt": graph, "client_id": client}) as answer:
            prompt_id = (await answer.json())["prompt_id"]
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue  # a preview
            event = json.loads(message.data)
            events.append(event)
            mine = event["data"].get("prompt_id") == prompt_id
            if mine and stop_at and stop_at(event):
                stop_at = None
                await (await session.post(f"{server.url}/interrupt", json={})).release()
            ended = event["type"] in ("execution_success", "execution_interrupted", "execution_error")
            if mine and ended:
                return events
    raise AssertionError("the server closed the connection")


def at_node(name: str) -> Callable[[Event], bool]:
    return lambda event: event["type"] == "executing" and event["data"]["node"] == name


def at_step(number: int) -> Callable[[Event], bool]:
    return lambda event: (
        event["type"] == "progress" and event["data"]["node"] == "run" and event["data"]["value"] >= number
    )


@pytest.mark.parametrize(
    ("moment", "ends"),
    [
        (at_node("prompt"), {"execution_interrupted", "execution_success"}),
        (at_node("run"), {"execution_interrupted"}),
        (at_step(1), {"execution_interrupted"}),
        (at_step(STEPS // 2), {"execution_interrupted"}),
        (at_step(STEPS), {"execution_interrupted", "execution_success"}),
        (at_node("out"), {"execution_interrupted", "execution_success"}),
    ],
    ids=["while the prompt is encoded", "before the first step", "after it", "half way", "at the end", "refining"],
)
def test_a_run_stopped_at_any_moment_leaves_nothing_behind(
    server: Any, unharmed: Callable[[], None], moment: Callable[[Event], bool], ends: set[str]
) -> None:
    graph = edit(next(SEEDS))
    graph["prompt"]["inputs"]["text"] = f"a frog {next(SEEDS)}"  # or the host has it in its cache
    events = asyncio.run(follow(server, graph, moment))
    assert any(moment(event) for event in events), "it was not stopped"
    assert events[-1]["type"] in ends
    unharmed()


def test_stopping_an_idle_server_does_not_stop_its_next_run(server: Any, unharmed: Callable[[], None]) -> None:
    server.post("/interrupt", {})
    unharmed()


def test_a_cancelled_queue_runs_nothing_of_it(server: Any, unharmed: Callable[[], None]) -> None:
    running, deleted, cleared = (server.queue(edit(next(SEEDS), 60)) for _ in range(3))
    while not json.loads(server.get("/queue"))["queue_running"]:
        time.sleep(0.05)  # a run that has not begun is cleared too
    server.post("/queue", {"delete": [deleted]})
    server.post("/queue", {"clear": True})
    queue = json.loads(server.get("/queue"))
    assert [entry[1] for entry in queue["queue_running"] + queue["queue_pending"]] == [running]
    server.post("/interrupt", {})
    with pytest.raises(Exception, match="execution_interrupted"):
        server.result(running)
    assert not any(json.loads(server.get(f"/history/{each}")) for each in (deleted, cleared))
    unharmed()


def test_the_same_workflow_queued_again_runs_nothing_and_shows_the_same(
    server: Any, unharmed: Callable[[], None]
) -> None:
    graph = edit(next(SEEDS))
    first, again = server.run(graph), server.run(graph)
    assert again.cached == set(graph)
    assert again.outputs == first.outputs
    unharmed()


def test_a_workflow_that_fails_leaves_nothing_behind(server: Any, unharmed: Callable[[], None]) -> None:
    graph = edit(next(SEEDS))
    graph["settings"]["inputs"]["words"] = "dog"
    with pytest.raises(Exception, match="'dog' is not in the edit prompt"):
        server.run(graph)
    graph["settings"]["inputs"]["negative"] = float("nan")
    with pytest.raises(Exception, match="negative must be from -1 to 1"):
        server.run(graph)
    unharmed()


def test_ten_runs_leave_the_process_as_large_as_it_was(server: Any, unharmed: Callable[[], None]) -> None:
    def run() -> None:
        server.run(edit(next(SEEDS), steps=2))

    def growth() -> int:
        before = memory(server)
        for _ in range(10):
            run()
        return memory(server) - before

    for _ in range(3):
        run()
    # the allocator of a long-lived server may take more once; what is leaked is leaked each time
    assert growth() < FLAT or growth() < FLAT
    unharmed()


def memory(server: Any) -> int:
    """Bytes that the process holds."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS"))) * 1024


def test_two_browsers_at_once_each_get_their_own_pictures_and_no_word_of_the_others(
    server: Any, unharmed: Callable[[], None]
) -> None:
    graphs = [edit(31, steps=4, side=SMALL, object="cat"), edit(32, steps=4, side=SMALL, object="car")]

    async def both() -> list[list[Event]]:
        return await asyncio.gather(*(follow(server, graph) for graph in graphs))

    told = asyncio.run(both())
    names = []
    for events in told:
        assert events[-1]["type"] == "execution_success"
        assert len({event["data"]["prompt_id"] for event in events if "prompt_id" in event["data"]}) == 1
        shown = [
            event["data"]["output"] for event in events if event["type"] == "executed" and "output" in event["data"]
        ]
        names.append({image["filename"] for output in shown for image in output.get("images", [])})
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]
    runs = [server.result(events[-1]["data"]["prompt_id"]) for events in told]
    for graph, run in zip(graphs, runs, strict=True):
        assert np.array_equal(run.picture("shown"), server.run(graph).picture("shown"))
    assert not np.array_equal(runs[0].picture("shown"), runs[1].picture("shown"))
    unharmed()
