"""The route that the mask editor asks for a mask when words, steps or the picture change.

It takes the name of a record's file, numbers, and names of words, which are only compared. Masks
are made in a thread of their own, one after the other: the server's event loop does not wait for
them, and sampling goes on in its thread beside it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import Any

import torch
from aiohttp import web

from ...instdiff_core.answer import answer_question
from ...instdiff_core.export import import_record
from ...instdiff_core.refinery import EditRefineries
from .browser import find_record

PATH = "/instdiff/mask"

LONGEST_QUESTION = 2**16
"""Bytes of a question: more than the longest list of words needs that a node takes."""

LARGEST_RECORD = 2**30
"""Bytes of a record's file that is read."""

KEPT_RECORDS, KEPT_BYTES = 4, 2**30
"""How many records are kept, and how large their files are together; the latest is kept in any case."""


@dataclass(frozen=True)
class Question:
    """What mask is wanted: of which record, by which words (none: the settings'), after how many steps (0: all).

    `edit` counts the edits of the run from 1 on, 0 means all of them; questions may lack it.
    """

    record: str
    words: tuple[str, ...]
    steps: int
    picture: int
    edit: int = 0

    @classmethod
    def read(cls, text: bytes) -> Question:
        """Raises ``ValueError`` with a sentence for anything that is no question."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("the question is no JSON") from None
        if not isinstance(values, dict) or {*values, "edit"} != {"record", "words", "steps", "picture", "edit"}:
            raise ValueError("a question has record, words, steps and picture, and may have edit")
        values = {"edit": 0, **values}
        record, words = values["record"], values["words"]
        if not isinstance(record, str) or not isinstance(words, list) or not all(isinstance(x, str) for x in words):
            raise ValueError("record must be a name, and words a list of texts")
        for name in ("steps", "picture", "edit"):
            if type(values[name]) is not int or values[name] < 0:
                raise ValueError(f"{name} must be a whole number from 0 on")
        return cls(record, tuple(words), values["steps"], values["picture"], values["edit"])


class Refineries:
    """Makes masks of the records that were left, of which it keeps the latest. For one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[EditRefineries, int]] = OrderedDict()

    @torch.inference_mode()
    def answer(self, question: Question) -> bytes:
        """`answer_question` for the record that is meant.

        Raises ``FileNotFoundError`` when the record is not there, ``IndexError`` when the picture
        or the edit is not, and ``ValueError`` with a sentence when the record cannot be read.
        """
        refineries = self._edits_of(question.record)
        return answer_question(refineries, question.words, question.steps, question.picture, question.edit)

    def answer_compressed(self, question: Question) -> bytes:
        """`answer`, a third as large, as HTTP's Content-Encoding "deflate" has it."""
        return zlib.compress(self.answer(question), 1)

    def _edits_of(self, name: str) -> EditRefineries:
        file = find_record(name)
        if name not in self._kept:
            size = file.stat().st_size
            if size > LARGEST_RECORD:
                raise ValueError("the record is too large to be refined in the browser")
            self._kept[name] = EditRefineries(*import_record(file.read_bytes())), size
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and not self._within_bounds():
            self._kept.popitem(last=False)
        return self._kept[name][0]

    def _within_bounds(self) -> bool:
        return len(self._kept) <= KEPT_RECORDS and sum(size for _, size in self._kept.values()) <= KEPT_BYTES


def add_routes() -> None:
    """Give the server its route, if there is a server: the host's modules are used without one too.

    Two copies of this pack must not keep it from starting, so the second one adds nothing.
    """
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None or any(getattr(route, "path", None) == PATH for route in server.routes):
        return
    refineries, thread = Refineries(), ThreadPoolExecutor(1, "instdiff_masks", _compute_alone)

    @server.routes.post(PATH)
    async def give_mask(request: web.Request) -> web.Response:
        if not 0 < (request.content_length or 0) <= LONGEST_QUESTION:
            return _refuse(413, f"a question has at most {LONGEST_QUESTION} bytes, and says how many")
        make = refineries.answer if _is_near(request) else refineries.answer_compressed
        try:
            question = Question.read(await request.read())
            answer = await asyncio.get_running_loop().run_in_executor(thread, make, question)
        except FileNotFoundError as error:
            return _refuse(404, error)
        except (IndexError, ValueError) as error:
            return _refuse(400, error)
        encoding = {} if make == refineries.answer else {"Content-Encoding": "deflate"}
        return web.Response(body=answer, headers={"Cache-Control": "no-store", **encoding})


def _compute_alone() -> None:
    """Let torch use no other threads for what the calling thread computes.

    Where the CPU samples, threads that wait for each other would take ten times as long. torch sets
    the number for this thread, and for those that are yet to begin: for these a thread sets it back.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    other = Thread(target=torch.set_num_threads, args=(threads,))
    other.start()
    other.join()


def _is_near(request: web.Request) -> bool:
    """Whether compressing takes longer than sending (on this machine), or is not understood."""
    here = request.remote in ("127.0.0.1", "::1") and "X-Forwarded-For" not in request.headers
    return here or "deflate" not in request.headers.get("Accept-Encoding", "")


def _refuse(status: int, why: Any) -> web.Response:
    return web.json_response({"error": str(why)}, status=status)
