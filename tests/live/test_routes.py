"""The route that the mask editor asks: every answer is a mask or a clear refusal, also while the server samples."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import zlib
from typing import Any

import pytest

REFINE, SAMPLER = "InstDiffRefineMask", "InstDiffMaskedSampler"
PATHS = ("/instdiff/mask", "/api/instdiff/mask")


@pytest.fixture(scope="module")
def ask(server: Any) -> Any:
    """``ask(question, path)``: the status and what was sent, of the server. A question may be any bytes."""

    def post(question: Any, path: str = PATHS[1], **headers: str) -> tuple[int, bytes]:
        body = question if isinstance(question, bytes) else json.dumps(question).encode()
        request = urllib.request.Request(server.url + path, body, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return post


@pytest.fixture
def question(server: Any, workflow: Any) -> dict[str, Any]:
    """A question about a run of this server."""
    run = server.run(workflow("edit_with_text", steps=2))
    (references,) = run.outputs[REFINE]["instdiff_record"]
    return {"record": references["record"]["filename"], "words": [], "steps": 0, "picture": 0}


@pytest.mark.parametrize("path", PATHS)
def test_a_question_gets_a_mask(ask, question, path):
    status, answer = ask(question, path)
    assert status == 200
    assert b'"soft"' in answer


def test_a_browser_far_away_gets_it_compressed(ask, question):
    answer = ask(question)[1]
    far = ask(question, **{"X-Forwarded-For": "192.0.2.1", "Accept-Encoding": "gzip, deflate"})[1]
    assert len(far) < len(answer) / 2
    assert zlib.decompress(far) == answer
    assert ask(question, **{"X-Forwarded-For": "192.0.2.1"})[1] == answer


def test_a_wrong_question_gets_a_clear_refusal(ask, question):
    gone = f"instdiff_{0:032x}.safetensors"
    for wrong, expected in (
        (b"{", 400),
        (question | {"picture": 7}, 400),
        (question | {"steps": "all"}, 400),
        (question | {"record": "../input/example.png"}, 400),
        (question | {"record": gone}, 404),
        (b" " * 2**17, 413),
    ):
        status, answer = ask(wrong)
        assert status == expected, wrong
        assert len(json.loads(answer)["error"]) > 10


def test_a_question_is_answered_while_the_server_samples(ask, question, server, workflow):
    graph = workflow("edit_with_text", steps=333)
    graph[SAMPLER]["inputs"]["seed"] = server.again()
    prompt_id = server.queue(graph)
    server.wait_for_step(333)
    for words in (["car"], ["grass"], []):
        assert ask(question | {"words": words})[0] == 200
    running = [entry[1] for entry in json.loads(server.get("/queue"))["queue_running"]]
    server.post("/interrupt", {})
    assert running == [prompt_id]
