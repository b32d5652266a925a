"""What the mask editor asks the server: only whole questions are taken, and only so many records are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instdiff_core.answer import answer_question
from instdiff_core.export import export_record
from instdiff_core.options import PRESETS
from instdiff_core.refinery import EditRefineries
from tests.records import make_record

RECORD = make_record(("a", "frog"), batch=2)
QUESTION = {"record": f"instdiff_{0:032x}.safetensors", "words": ["frog"], "steps": 0, "picture": 1}


@pytest.fixture
def routes(host: Any) -> Any:
    return host.hooks.routes


@pytest.fixture
def leave(host: Any) -> Any:
    """``leave(number)``: write `RECORD` where a node leaves it; its name."""
    import folder_paths

    def write(number: int) -> str:
        name = f"instdiff_{number:032x}.safetensors"
        Path(folder_paths.get_temp_directory(), name).write_bytes(export_record(RECORD, [PRESETS["default"]]))
        return name

    return write


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 10_000,
        b"\xff",
        *(
            json.dumps(values).encode()
            for values in (
                {},
                {name: value for name, value in QUESTION.items() if name != "steps"},
                QUESTION | {"more": 1},
                QUESTION | {"record": 5},
                QUESTION | {"words": "frog"},
                QUESTION | {"words": [5]},
                QUESTION | {"steps": -1},
                QUESTION | {"steps": 1.5},
                QUESTION | {"steps": True},
                QUESTION | {"picture": -1},
                QUESTION | {"picture": None},
            )
        ),
    ],
)
def test_what_is_no_question_is_refused_with_a_sentence(routes, text):
    with pytest.raises(ValueError, match=r"question|must be"):
        routes.Question.read(text)


def test_a_question_is_answered_from_the_record_that_it_names(routes, leave):
    question = routes.Question.read(json.dumps(QUESTION | {"record": leave(1)}).encode())
    wanted = answer_question(EditRefineries(RECORD, [PRESETS["default"]]), ("frog",), 0, 1)
    refineries = routes.Refineries()
    assert refineries.answer(question) == refineries.answer(question) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "../x",
        "instdiff_" + "0" * 31 + ".safetensors",
        "../instdiff_" + "0" * 32 + ".safetensors",
        "instdiff_" + "0" * 32 + ".safetensors\n",
        "instdiff_" + "0" * 32 + ".safetensors\0",
        "/etc/passwd",
        "C:\\x",
    ],
)
def test_no_other_file_than_a_record_is_looked_for(routes, name):
    with pytest.raises(ValueError, match="name of a record"):
        routes.Refineries().answer(routes.Question(name, (), 0, 0))


def test_a_record_that_is_gone_is_gone_though_it_was_read_before(routes, host, leave):
    import folder_paths

    refineries, question = routes.Refineries(), routes.Question(leave(2), (), 0, 0)
    refineries.answer(question)
    Path(folder_paths.get_temp_directory(), question.record).unlink()
    with pytest.raises(FileNotFoundError, match="run the workflow again"):
        refineries.answer(question)


def test_a_file_that_is_no_record_or_too_large_is_refused(routes, leave, monkeypatch):
    import folder_paths

    question = routes.Question(leave(3), (), 0, 0)
    monkeypatch.setattr(routes, "LARGEST_RECORD", 100)
    with pytest.raises(ValueError, match="too large"):
        routes.Refineries().answer(question)
    Path(folder_paths.get_temp_directory(), question.record).write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="cannot be read"):
        routes.Refineries().answer(question)


def test_only_the_latest_records_are_kept(routes, leave, monkeypatch):
    """However many there are: by their number, and by their size, of which the latest may have any."""
    refineries = routes.Refineries()
    names = [leave(number) for number in range(10, 17)]

    def kept() -> list[str]:
        return list(refineries._kept)

    for name in [*names, names[5]]:
        refineries.answer(routes.Question(name, (), 0, 0))
    assert kept() == [names[3], names[4], names[6], names[5]]
    monkeypatch.setattr(routes, "KEPT_BYTES", 2 * len(export_record(RECORD, [PRESETS["default"]])))
    refineries.answer(routes.Question(names[0], (), 0, 0))
    assert kept() == [names[5], names[0]]
    monkeypatch.setattr(routes, "KEPT_BYTES", 1)
    refineries.answer(routes.Question(names[1], (), 0, 0))
    assert kept() == [names[1]]
